"""The vocoders of a speech model, by name. Importable without PyTorch, because they are also a flag."""

from __future__ import annotations

from typing import Literal

Vocoder = Literal["wavenet", "griffin-lim", "istft"]
VOCODERS: tuple[Vocoder, ...] = ("wavenet", "griffin-lim", "istft")
PitchSource = Literal["source", "codes"]

NOT_TRAINED = (
    "the decoder of this model has not been trained (stage: codes); train it first, with --init-from THIS_MODEL and "
    "--model.stage decoder, or decode without it, with --vocoder griffin-lim (in Python vocoder='griffin-lim')"
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


def check_streams(vocoder: Vocoder) -> None:
    """Raises ValueError for a vocoder that makes no utterance in part."""
    if vocoder == "griffin-lim":
        raise ValueError(
            "the vocoder griffin-lim cannot stream, because its phases depend on the whole utterance; use --vocoder "
            "wavenet (in Python vocoder='wavenet')"
        )
