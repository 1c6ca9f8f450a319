"""Are the words still there? Word and character error rates of what a recogniser heard.

An error rate says how far a recogniser's text is from the true one: substituted, deleted and inserted words (or
characters) over those of the true text. It may exceed 1. It judges audio and recogniser together, so it is to be read
beside the rate of the original audio, below which it hardly falls, and beside that of unrelated speech.
"""

from __future__ import annotations

from collections.abc import Sequence

from vqaudio.data.text import words_of
from vqaudio.metrics.confidence import Estimate, ratio


def wer_metrics(texts: Sequence[str], heard: Sequence[str]) -> dict[str, Estimate]:
    """True texts and what was heard, utterance by utterance -> error rates over all words, drawn by utterances.

    wer, cer                    of words, and of characters with the spaces between words
    wer_shuffled, cer_shuffled  the same of what was heard in other utterances, with other texts: what the recogniser
                                gets for speech that says something else; left out where all texts are the same

    Both sides are compared in the spelling of `words_of`. Raises ValueError for lists of different lengths or without
    utterances, and for a text without words.
    """
    check_jiwer()
    if len(texts) != len(heard) or not texts:
        raise ValueError(f"{len(texts)} texts and {len(heard)} that were heard; give as many of both, 1 or more")
    true, hypotheses = [" ".join(words_of(text)) for text in texts], [" ".join(words_of(text)) for text in heard]
    for number, text in enumerate(true):
        if not text:
            raise ValueError(
                f"text {number} ({texts[number]!r}) holds no words, so errors in it have no rate; leave it out"
            )
    figures = _rates(true, hypotheses, "")
    if len(set(true)) > 1:
        figures |= _rates(true, [hypotheses[_other(true, u)] for u in range(len(true))], "_shuffled")
    return figures


def check_jiwer() -> None:
    """Raises ModuleNotFoundError, with what to install, where errors cannot be counted."""
    try:
        import jiwer  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("errors are counted with jiwer: pip install 'vqaudio[metrics]'") from error


def _rates(true: Sequence[str], heard: Sequence[str], suffix: str) -> dict[str, Estimate]:
    import jiwer

    figures = {}
    for name, count in (("wer", jiwer.process_words), ("cer", jiwer.process_characters)):
        found = [count(text, hypothesis) for text, hypothesis in zip(true, heard, strict=True)]
        errors = [own.substitutions + own.deletions + own.insertions for own in found]
        lengths = [own.hits + own.substitutions + own.deletions for own in found]
        figures[name + suffix] = ratio(errors, lengths)
    return figures


def _other(true: Sequence[str], own: int) -> int:
    """Half the list on, where another speaker is likely, or the first after that whose text is another."""
    begin = own + len(true) // 2
    return next(u % len(true) for u in range(begin, begin + len(true)) if true[u % len(true)] != true[own])
