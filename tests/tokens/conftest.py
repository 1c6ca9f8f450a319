"""Token rows that are shared by the tests of token files."""

from collections.abc import Callable

import pytest
import torch

from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.rows import TokenRow

HOP = 8


def _row(id: str = "a", speaker: str | None = "anna", num_codes: int = 5, model: str = "0123456789ab") -> TokenRow:
    codes = torch.arange(num_codes) * 37 % 512
    return TokenRow(id, speaker, Tokens(codes, num_codes * HOP - 3, 16000, HOP, model))


@pytest.fixture(scope="session")
def make_row() -> Callable[..., TokenRow]:
    """(id, speaker, num_codes, model) -> a row whose last code covers an incomplete frame."""
    return _row
