"""What a report says at its top."""

from __future__ import annotations

import math

import pytest

from vqaudio.metrics.confidence import Estimate
from vqaudio.report.context import CONVERSION, ORIGINAL, OURS, RECONSTRUCTION
from vqaudio.report.summary import sentences


def _said(figures: dict[tuple[str, str], dict[str, Estimate]]) -> list[str]:
    return sentences(lambda question, one, system: figures.get((question, system), {}) if one == "set" else {}, ["set"])


def _near(value: float, half: float = 0.01, count: int = 8) -> Estimate:
    return Estimate(value, value - half, value + half, count)


@pytest.mark.parametrize(
    ("ours", "baseline", "outcome"),
    [
        (_near(0.30), _near(0.40), "the tokens lose"),
        (_near(0.40), _near(0.30), "the tokens win"),
        (_near(0.40), _near(0.395), "no difference that these utterances could show"),
        (_near(0.40, 0.0, 1), _near(0.30, 0.0, 1), "no difference that these utterances could show"),
    ],
)
def test_who_names_more_phones_is_said_where_the_intervals_tell(
    ours: Estimate, baseline: Estimate, outcome: str
) -> None:
    figures = {
        ("phones", OURS): {"accuracy": ours, "majority": _near(0.1)},
        ("phones", "k-means MFCC"): {"accuracy": baseline},
        ("phones", "k-means log-mel"): {"accuracy": _near(0.01)},
    }
    (sentence,) = _said(figures)
    assert sentence.startswith("On set a code names the phone of ") and sentence.endswith(f"{outcome}.")
    assert "k-means MFCC" in sentence  # the better of the two


def test_fewer_errors_win_in_abx() -> None:
    figures = {("abx", OURS): {"abx_across": _near(0.2)}, ("abx", "k-means log-mel"): {"abx_across": _near(0.3)}}
    assert _said(figures)[0].endswith("30.0 % (29.0 to 31.0) by k-means log-mel: the tokens win.")


def test_words_and_voices_stand_beside_what_they_are_compared_with() -> None:
    figures = {
        ("words", ORIGINAL): {"wer": _near(0.1)},
        ("words", RECONSTRUCTION): {"wer": _near(0.5), "wer_shuffled": _near(1.2)},
        ("conversion", CONVERSION): {"target_closer": _near(0.9)},
        ("conversion", ORIGINAL): {"equal_error": Estimate(0.02, 0.02, 0.02, 1)},
    }
    words, voices = _said(figures)
    assert "10.0 % (9.0 to 11.0) of the words wrong in the original, 50.0 %" in words and "120.0 %" in words
    assert "90.0 % (89.0 to 91.0) of the conversions" in voices and "errs in 2.0 % of real pairs" in voices


def test_of_what_is_no_number_and_of_what_was_not_asked_nothing_is_said() -> None:
    nothing = Estimate(math.nan, math.nan, math.nan, 1)
    assert _said({("abx", OURS): {"abx_across": nothing, "abx_within": nothing}}) == []
    assert _said({}) == []
