"""The shipped tokenizer on real speech: the number of codes, and equal codes in every mode."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import vqaudio
from vqaudio.data.audio import read_audio

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "vctk_mini"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent; set VQAUDIO_DATA to the folder of vctk_mini"),
]


@pytest.fixture(scope="module")
def model() -> vqaudio.SpeechVQVAE:
    return vqaudio.load_model("mini")


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return sorted(DATA.glob("wav16/*/*.flac"))


def test_every_file_has_a_code_for_each_hop_begun(model: vqaudio.SpeechVQVAE, files: list[Path]) -> None:
    assert len(files) == 579
    used = np.zeros(model.codebook_size, dtype=bool)
    for path in files:
        tokens = model.tokenize(path)
        assert len(tokens.codes) == -(-len(read_audio(path, model.sample_rate)) // model.hop), path
        used[tokens.codes.numpy()] = True
    assert used.mean() > 0.25


def test_alone_in_a_padded_batch_and_read_again_are_the_same_codes(
    model: vqaudio.SpeechVQVAE, files: list[Path]
) -> None:
    chosen = files[::9]
    alone = [model.tokenize(path).codes for path in chosen]
    again = [model.tokenize(path).codes for path in reversed(chosen)][::-1]
    wavs = [torch.from_numpy(read_audio(path, model.sample_rate)) for path in chosen]
    lengths = torch.tensor([len(wav) for wav in wavs])
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)[:, None]
    # the content of the padding must not matter
    padded[:, 0][torch.arange(padded.shape[2]) >= lengths[:, None]] = 0.7
    batched, num_codes = model.encode(padded, lengths)
    for i, path in enumerate(chosen):
        assert torch.equal(alone[i], again[i]), path
        assert torch.equal(alone[i], batched[i, : num_codes[i]]), path


def test_the_number_of_threads_changes_no_code(model: vqaudio.SpeechVQVAE, files: list[Path]) -> None:
    threads = torch.get_num_threads()
    try:
        codes = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            codes.append([model.tokenize(path).codes for path in files[::29]])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*codes, strict=True))
