"""Word error rate (WER) and character error rate (CER) of speech recognition.

Substitutions, deletions and insertions over the words (or characters) of the reference; the rate may exceed 1. It
depends on the audio and on the recogniser: compare it with the rate of the original audio and of unrelated speech.
"""

from __future__ import annotations

from collections.abc import Sequence

from vqaudio.data.text import words_of
from vqaudio.metrics.confidence import Estimate, ratio


def wer_metrics(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Estimate]:
    """References and recognised texts of utterances -> error rates over all words, with intervals over utterances.

    wer, cer                    of words, and of characters including the spaces between words
    wer_shuffled, cer_shuffled  of hypotheses of other utterances with other references, the rate of unrelated speech;
                                left out where all references are equal

    Both are normalised by `words_of`. Raises ValueError for lists of different lengths or without utterances, and for a
    reference without words; ModuleNotFoundError without jiwer.
    """
    check_jiwer()
    if len(references) != len(hypotheses) or not references:
        raise ValueError(
            f"got {len(references)} references and {len(hypotheses)} hypotheses; give as many of both, 1 or more"
        )
    true, recognised = ([" ".join(words_of(text)) for text in texts] for texts in (references, hypotheses))
    for number, text in enumerate(true):
        if not text:
            raise ValueError(
                f"reference {number} ({references[number]!r}) has no words, so no error rate; leave it out"
            )
    metrics = _rates(true, recognised, "")
    if len(set(true)) > 1:
        metrics |= _rates(true, [recognised[_other(true, u)] for u in range(len(true))], "_shuffled")
    return metrics


def check_jiwer() -> None:
    """Raises ModuleNotFoundError, with what to install, where jiwer is missing."""
    try:
        import jiwer  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("error rates need jiwer: pip install 'vqaudio[metrics]'") from error


def _rates(references: Sequence[str], hypotheses: Sequence[str], suffix: str) -> dict[str, Estimate]:
    import jiwer

    metrics = {}
    for name, count in (("wer", jiwer.process_words), ("cer", jiwer.process_characters)):
        found = [count(*pair) for pair in zip(references, hypotheses, strict=True)]
        errors = [own.substitutions + own.deletions + own.insertions for own in found]
        lengths = [own.hits + own.substitutions + own.deletions for own in found]
        metrics[name + suffix] = ratio(errors, lengths)
    return metrics


def _other(true: Sequence[str], own: int) -> int:
    """The utterance half the list further, probably of another speaker, or the next one with a different text."""
    begin = own + len(true) // 2
    return next(u % len(true) for u in range(begin, begin + len(true)) if true[u % len(true)] != true[own])
