"""The audio that checks work on: the examples of a model, synthetic audio, and files of the user."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vqaudio.checkpoint import golden_recordings
from vqaudio.data.audio import AudioError, Failures, read_audio
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokenizer import CHUNK_FRAMES
from vqaudio.tokens.bulk import find_sources


class Utterance(NamedTuple):
    """A waveform and its name for messages."""

    name: str
    wav: Tensor  # (T,) float32 in [-1, 1], at the model's sample rate


def examples(folder: Path, model: SpeechVQVAE) -> list[Utterance]:
    """The recordings that a shipped model comes with, unless they are damaged; none for other models."""
    return list(of_files(golden_recordings(folder), model.sample_rate, []))


def synthetic(model: SpeechVQVAE) -> list[Utterance]:
    """Voiced sounds with pauses, of lengths at which errors of chunks show: less than a code, a chunk, and more."""
    chunk = CHUNK_FRAMES * model.hop
    lengths = {
        "synthetic, 1 sample": 1,
        "synthetic, 1 code": model.hop,
        "synthetic, 1 chunk": chunk,
        "synthetic, 2 chunks and 1 sample": 2 * chunk + 1,
    }
    return [Utterance(name, _voiced(length, model.sample_rate)) for name, length in lengths.items()]


def _voiced(length: int, sample_rate: int) -> Tensor:
    """(T,): harmonics of a gliding F0, on and off three times per second, above a noise floor of -60 dB."""
    seconds = torch.arange(length, dtype=torch.float64) / sample_rate
    phase = 2 * math.pi * torch.cumsum(120 + 40 * torch.sin(2 * math.pi * 0.7 * seconds), 0) / sample_rate
    harmonics = torch.stack([torch.sin(k * phase + k * k) / k for k in range(1, 12)]).sum(0)
    envelope = torch.sin(2 * math.pi * 1.5 * seconds).clamp(min=0)
    noise = torch.randn(length, generator=torch.Generator().manual_seed(length), dtype=torch.float64)
    return (0.1 * envelope * harmonics + 0.001 * noise).float()


def of_files(paths: Sequence[Path], sample_rate: int, failures: Failures) -> Iterator[Utterance]:
    """Audio files, folders and manifests -> their utterances; an error for each unusable file goes to `failures`.

    Raises ValueError and FileNotFoundError as `find_sources` does.
    """
    for source in find_sources(paths) if paths else ():
        try:
            yield Utterance(str(source.path), torch.from_numpy(read_audio(source.path, sample_rate)))
        except AudioError as error:
            failures.append(error)
        except OSError as error:
            failures.append(AudioError(f"{source.path} cannot be read: {error.strerror or error}"))
