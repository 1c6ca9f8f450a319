"""The configuration of a report, as `vqaudio evaluate` takes it. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vqaudio.report.tasks import TASKS

if TYPE_CHECKING:
    TaskKey = str
else:
    TaskKey = Literal[tuple(task.key for task in TASKS)]  # the choices of --only


@dataclass(frozen=True)
class ReportConfig:
    """For speech models. With the defaults a report takes some minutes on two CPU cores."""

    max_utterances: int = 200
    """maximum number of utterances of each set, spread evenly over its speakers"""
    decoded_utterances: int = 24
    """number of utterances of each set that are decoded to audio for voice_conversion, wer, naturalness and signal"""
    phone_classes: Literal["paper", "labels"] = "paper"
    """phone classes: the 41 classes of the paper, or every label of the alignments as its own class"""
    asr: str = "tiny.en"
    """speech recogniser: the size of a Whisper model, a repository of the Hugging Face Hub such as
    Systran/faster-whisper-small.en, or a folder; tiny.en needs no network"""
    only: tuple[TaskKey, ...] = ()
    """tasks to compute; default: all"""
    html: bool = True
    """with --no-html, write report.json only, without the HTML page, its audio and its pictures"""

    def __post_init__(self) -> None:
        if self.max_utterances < 1 or self.decoded_utterances < 1:
            raise ValueError(
                "max_utterances and decoded_utterances must be at least 1, "
                f"got {self.max_utterances} and {self.decoded_utterances}"
            )
        keys = [task.key for task in TASKS]
        if unknown := [key for key in self.only if key not in keys]:
            raise ValueError(f"there is no task {unknown[0]!r}; the tasks are {', '.join(keys)}")
