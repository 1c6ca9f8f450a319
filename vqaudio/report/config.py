"""How much a report asks, and by what means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Key = Literal["listening", "phones", "abx", "speaker", "conversion", "words", "signal", "codes", "bits", "stability"]
SPHINX = "pocketsphinx"


@dataclass(frozen=True)
class ReportConfig:
    """Of speech; the defaults take some minutes on two CPU cores."""

    max_utterances: int = 200
    """of a set, at most; the speakers in turns"""
    decoded_utterances: int = 24
    """utterances of a set that are spoken again, for voices, words and signal; the speakers in turns"""
    phone_classes: Literal["paper", "labels"] = "paper"
    """in which phones are scored: the paper's 41, or every label for itself"""
    asr: str = SPHINX
    """of words: pocketsphinx with the texts of the corpus, or one of the Hugging Face Hub (openai/whisper-small)"""
    only: tuple[Key, ...] = ()
    """questions to be asked; without it all"""
    html: bool = True
    """figures alone; without this flag a page is made of them, with audio and pictures"""

    def __post_init__(self) -> None:
        if self.max_utterances < 1 or self.decoded_utterances < 1:
            raise ValueError(
                f"max_utterances and decoded_utterances must be at least 1, got {self.max_utterances} and {self.decoded_utterances}"
            )
