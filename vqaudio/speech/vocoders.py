"""The vocoders of a speech model, by name. Importable without PyTorch, because they are also a flag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Vocoder = Literal["wavenet", "griffin-lim", "istft"]
VOCODERS: tuple[Vocoder, ...] = ("wavenet", "griffin-lim", "istft")
PitchSource = Literal["source", "codes"]

NOT_TRAINED = (
    "the WaveNet of this model has not been trained; train it, with --init-from THIS_MODEL and --model.stage decoder, "
    "or decode with another --vocoder (in Python vocoder=..., such as 'griffin-lim'; vqaudio info MODEL lists them)"
)
NO_SPECTRUM = (
    "the vocoder griffin-lim needs a model that predicts the log-mel spectrum of its codes (spectrum.n_mels), and this "
    "one does not; use --vocoder wavenet (in Python vocoder='wavenet')"
)


NO_ISTFT = (
    "this model has no trained vocoder istft; train one with --init-from THIS_MODEL, --model.stage istft and "
    "--model.istft.dilations, or use another --vocoder (in Python vocoder=...; vqaudio info MODEL lists them)"
)
MISSING: dict[Vocoder, str] = {"wavenet": NOT_TRAINED, "griffin-lim": NO_SPECTRUM, "istft": NO_ISTFT}


def chosen_vocoder(vocoder: Vocoder, available: Sequence[Vocoder]) -> Vocoder:
    """`vocoder`. Raises ValueError for an unknown one, and for one that is not among those of a model."""
    if vocoder not in VOCODERS:
        raise ValueError(f"vocoder must be {' or '.join(map(repr, VOCODERS))}, got {vocoder!r}")
    if vocoder not in available:
        raise ValueError(MISSING[vocoder])
    return vocoder


def check_pitch_source(pitch: PitchSource) -> PitchSource:
    """`pitch`. Raises ValueError for another value than source and codes."""
    if pitch not in ("source", "codes"):
        raise ValueError(f"pitch must be 'source' or 'codes', got {pitch!r}")
    return pitch


def check_streams(vocoder: Vocoder) -> None:
    """Raises ValueError for a vocoder that makes no utterance in part."""
    if vocoder == "griffin-lim":
        raise ValueError(
            "the vocoder griffin-lim cannot stream, because its phases depend on the whole utterance; use another "
            "--vocoder, istft or wavenet, if the model has one (vqaudio info MODEL lists them)"
        )
