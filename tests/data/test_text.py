"""Transcripts as words, and numbers as words."""

import pytest

from vqaudio.data.text import spelled, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u201cDon\u2019t,\u201d she SAID -- well-known 'rock'!", "don't she said well known rock"),
        ("It cost £1,250 in 2 days.", "it cost one thousand two hundred fifty in two days"),
        (" ?! ", ""),
    ],
)
def test_words_are_spelled_one_way(text: str, words: str) -> None:
    assert " ".join(words_of(text)) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (19, "nineteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (1_000_012, "one million twelve"),
        (305_000_000_000, "three hundred five billion"),
        (10**12, "one" + " zero" * 12),
    ],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert spelled(number) == words
