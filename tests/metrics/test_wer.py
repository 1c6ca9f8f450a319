"""Error rates by hand and by jiwer, of texts that Whisper's normaliser has made comparable."""

import jiwer
import numpy as np
import pytest

from vqaudio.metrics.wer import normalised, wer_increase, wer_metrics


def test_error_rates_by_hand() -> None:
    """One word of four replaced, one of two added: (1 + 1) / (4 + 2); characters of "sit" and "sat": 1, "go " 3."""
    metrics = wer_metrics(["The cat sat down.", "Go home!"], ["the cat sit down", "go go home"])
    assert metrics["wer"].value == pytest.approx(2 / 6)
    assert metrics["cer"].value == pytest.approx((1 + 3) / (len("the cat sat down") + len("go home")))
    assert metrics["wer"].count == 2
    assert metrics["wer"].low == 0.25 and metrics["wer"].high == 0.5  # twice the first, twice the second


def test_error_rates_of_shuffled_references() -> None:
    """Of two utterances each is compared with the other: 2 deleted and 2 replaced, 2 inserted and 2 replaced."""
    metrics = wer_metrics(["a b c d", "x y"], ["a b c d", "x y"])
    assert metrics["wer"].value == metrics["cer"].value == 0
    assert metrics["wer_shuffled"].value == pytest.approx(8 / 6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Colour, grey and CENTRE", "color gray and center"),
        ("It's \u201cfine\u201d -- he won't go", "it is fine he will not go"),
        ("twenty one", "21"),
        ("\u00a31,250 in 2 days", "\u00a31250 in 2 days"),
        ("Um, well... [noise] yes", "well yes"),
        ("well...", "well"),
        (" ?! ... - ", ""),
    ],
)
def test_texts_are_written_one_way(text: str, words: str) -> None:
    assert normalised(text) == words


def test_spelling_contractions_and_numbers_are_not_errors() -> None:
    """By hand: none wrong of the 8 words "it is my favorite color in all 20", 1 of the 3 of "mister smith left"."""
    references = ["It's my favourite colour in all twenty.", "Mr. Smith left"]
    metrics = wer_metrics(references, ["it is my favorite color, in all 20!", "mister Smith leaves"])
    assert metrics["wer"].value == pytest.approx(1 / 11)


def test_an_increase_is_the_difference_of_the_rates_with_paired_intervals() -> None:
    """Before: 1 and 0 of 4 and 2 words; after: 3 and 1. Of each utterance, half of the words more."""
    references, before = ["The cat sat down.", "Go home!"], ["the cat sit down", "go home"]
    after = ["a dog sat up", "go"]
    increase = wer_increase(references, before, after)
    rates = [wer_metrics(references, texts)["wer"].value for texts in (before, after)]
    assert increase.value == pytest.approx(rates[1] - rates[0]) == pytest.approx(3 / 6)
    assert increase.low == increase.high == 0.5 and increase.count == 2  # though neither rate is certain
    assert wer_increase(references, after, before).value == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="2 references and 1 hypotheses"):
        wer_increase(references, before, after[:1])


def test_equal_references_are_not_shuffled() -> None:
    metrics = wer_metrics(["one two", "One, two?", "three four"], ["one two", "one two", "three four"])
    assert metrics["wer_shuffled"].value == 1
    assert set(wer_metrics(["one", "one"], ["one", "two"])) == {"wer", "cer"}


def test_error_rates_are_those_of_jiwer() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcd"), size=rng.integers(1, 9))) for _ in range(50)]
    hypotheses = [" ".join(rng.choice(list("abcd"), size=rng.integers(0, 9))) for _ in range(50)]
    metrics = wer_metrics(texts, hypotheses)
    assert metrics["wer"].value == pytest.approx(jiwer.wer(texts, hypotheses))
    assert metrics["cer"].value == pytest.approx(jiwer.cer(texts, hypotheses))
    assert metrics["wer"].low < metrics["wer"].value < metrics["wer"].high
    assert metrics == wer_metrics(texts, hypotheses)


def test_empty_and_long_hypotheses() -> None:
    assert wer_metrics(["one two", "three"], ["", ""])["wer"][:3] == (1, 1, 1)
    assert wer_metrics(["go"], ["go and come back"])["wer"].value == 3


@pytest.mark.parametrize(
    ("texts", "hypotheses", "message"),
    [
        (["one", " ... "], ["one", "two"], r"reference 1 \(' ... '\) has no words"),
        (["one"], [], "1 references and 0 hypotheses"),
        ([], [], "0 references"),
    ],
)
def test_what_has_no_error_rate_is_refused(texts: list[str], hypotheses: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wer_metrics(texts, hypotheses)
