"""A model with golden tokens, as shipped models have them, in a folder that a test may damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vqaudio import SpeechVQVAE, save_model
from vqaudio.cli.main import main
from vqaudio.data.audio import write_audio
from vqaudio.tokens.files import write_tokens
from vqaudio.tokens.rows import TokenRow


@pytest.fixture
def installed(tiny_model: SpeechVQVAE, tmp_path: Path) -> Path:
    """Folder of the tiny model with two examples and their tokens."""
    folder = tmp_path / "tiny"
    save_model(tiny_model, folder)
    (folder / "examples").mkdir()
    rows = []
    for name, samples in (("a", 4000), ("b", 1801)):
        path = folder / "examples" / f"{name}_original.flac"
        write_audio(path, torch.rand(samples, generator=torch.Generator().manual_seed(samples)).numpy() - 0.5, 16000)
        rows.append(TokenRow(name, "anna", tiny_model.tokenize(path)))
    write_tokens(folder / "golden.jsonl", rows)
    return folder


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, str], str]]:
    """(arguments) -> exit code, mark of each check, standard error."""

    def call(*arguments: object) -> tuple[int, dict[str, str], str]:
        code = main(["verify", *map(str, arguments), "--device", "cpu"])
        captured = capsys.readouterr()
        return code, {line[2:34].strip(): line[0] for line in captured.out.splitlines()}, captured.err

    return call
