"""Token rows that are shared by the tests of token files."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from vqaudio.speech.tokens import PitchTokens, Tokens
from vqaudio.tokens.rows import TokenRow

HOP = 8


def _row(id: str = "a", speaker: str | None = "anna", num_codes: int = 5, model: str = "0123456789ab") -> TokenRow:
    codes = torch.arange(num_codes) * 37 % 512
    return TokenRow(id, speaker, Tokens(codes, num_codes * HOP - 3, 16000, HOP, model))


@pytest.fixture(scope="session")
def make_row() -> Callable[..., TokenRow]:
    """(id, speaker, num_codes, model) -> a row whose last code covers an incomplete frame."""
    return _row


def _with_pitch(row: TokenRow, hop: int = 3 * HOP, model: str = "ba9876543210") -> TokenRow:
    codes = torch.arange(-(-row.tokens.num_samples // hop)) * 29 % 200
    return replace(row, tokens=replace(row.tokens, pitch=PitchTokens(codes, hop, model)))


@pytest.fixture(scope="session")
def with_pitch() -> Callable[..., TokenRow]:
    """(row, hop, model) -> the row with pitch tokens."""
    return _with_pitch
