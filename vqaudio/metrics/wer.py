"""Word error rate (WER) and character error rate (CER) of speech recognition.

Substitutions, deletions and insertions over the words (or characters) of the reference; the rate may exceed 1. It
depends on the audio and on the recogniser: compare it with the rate of the original audio and of unrelated speech.
Texts are normalised as Whisper's authors do it for English (Radford et al., 2022, appendix C), so that spelling,
contractions and the writing of numbers do not count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

from vqaudio.metrics.confidence import Estimate, ratio


def wer_metrics(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Estimate]:
    """References and recognised texts of utterances -> error rates over all words, with intervals over utterances.

    wer, cer                    of words, and of characters including the spaces between words
    wer_shuffled, cer_shuffled  of hypotheses of other utterances with other references, the rate of unrelated speech;
                                left out where all references are equal

    Raises ValueError for lists of different lengths or without utterances, and for a reference without words;
    ModuleNotFoundError without jiwer and whisper-normalizer.
    """
    true, recognised = _checked(references, hypotheses)
    metrics = _rates(true, recognised, "")
    if len(set(true)) > 1:
        metrics |= _rates(true, [recognised[_other(true, u)] for u in range(len(true))], "_shuffled")
    return metrics


def wer_increase(references: Sequence[str], before: Sequence[str], after: Sequence[str]) -> Estimate:
    """WER of the texts recognised `after` something was lost minus that of those `before`, on the same utterances.

    The interval resamples utterances with both of their texts, so that what is difficult in both cancels. Raises as
    `wer_metrics`.
    """
    (first, words), (second, _) = (_errors(*_checked(references, texts), "words") for texts in (before, after))
    return ratio([more - less for more, less in zip(second, first, strict=True)], words)


def normalised(text: str) -> str:
    """Words in lower case, without punctuation, hesitations ("um") and what stands in brackets; American spelling,
    contractions written out ("it is"), numbers in digits ("20"). Raises ModuleNotFoundError without whisper-normalizer.

    What Whisper's normaliser leaves of "well...", a dot, is not a word.
    """
    return " ".join(word for word in _normaliser()(text).split() if any(sign.isalnum() for sign in word))


@functools.cache
def _normaliser() -> Callable[[str], str]:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("error rates need whisper-normalizer: pip install 'vqaudio[metrics]'") from error
    return EnglishTextNormalizer()


def _checked(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[list[str], list[str]]:
    """Both normalised. Raises ValueError as `wer_metrics`."""
    if len(references) != len(hypotheses) or not references:
        raise ValueError(
            f"got {len(references)} references and {len(hypotheses)} hypotheses; give as many of both, 1 or more"
        )
    true, recognised = ([normalised(text) for text in texts] for texts in (references, hypotheses))
    for number, text in enumerate(true):
        if not text:
            raise ValueError(
                f"reference {number} ({references[number]!r}) has no words, so no error rate; leave it out"
            )
    return true, recognised


def _rates(references: Sequence[str], hypotheses: Sequence[str], suffix: str) -> dict[str, Estimate]:
    units: dict[str, Literal["words", "characters"]] = {"wer": "words", "cer": "characters"}
    return {name + suffix: ratio(*_errors(references, hypotheses, unit)) for name, unit in units.items()}


def _errors(
    references: Sequence[str], hypotheses: Sequence[str], unit: Literal["words", "characters"]
) -> tuple[list[int], list[int]]:
    """Errors of each utterance, and the length of its reference."""
    try:
        import jiwer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("error rates need jiwer: pip install 'vqaudio[metrics]'") from error
    count = jiwer.process_words if unit == "words" else jiwer.process_characters
    found = [count(*pair) for pair in zip(references, hypotheses, strict=True)]
    errors = [own.substitutions + own.deletions + own.insertions for own in found]
    return errors, [own.hits + own.substitutions + own.deletions for own in found]


def _other(true: Sequence[str], own: int) -> int:
    """The utterance half the list further, probably of another speaker, or the next one with a different text."""
    begin = own + len(true) // 2
    return next(u % len(true) for u in range(begin, begin + len(true)) if true[u % len(true)] != true[own])
