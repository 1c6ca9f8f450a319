"""The sentences at the top of a report."""

from __future__ import annotations

import math

import pytest

from vqaudio.metrics.confidence import Estimate
from vqaudio.report.summary import formatted, sentences
from vqaudio.report.systems import CONVERSION, MODEL, ORIGINAL, RECONSTRUCTION


def _sentences(metrics: dict[tuple[str, str], dict[str, Estimate]]) -> list[str]:
    return sentences(lambda task, name, system: metrics.get((task, system), {}) if name == "set" else {}, ["set"])


def _near(value: float, half: float = 0.01, count: int = 8) -> Estimate:
    return Estimate(value, value - half, value + half, count)


@pytest.mark.parametrize(
    ("ours", "baseline", "outcome"),
    [
        (_near(0.30), _near(0.40), "so the tokens are worse"),
        (_near(0.40), _near(0.30), "so the tokens are better"),
        (_near(0.40), _near(0.395), "a difference within the confidence intervals"),
        (_near(0.40, 0.0, 1), _near(0.30, 0.0, 1), "a difference within the confidence intervals"),
    ],
)
def test_the_comparison_of_phone_accuracies_regards_the_intervals(
    ours: Estimate, baseline: Estimate, outcome: str
) -> None:
    metrics = {
        ("phones", MODEL): {"accuracy": ours, "majority_accuracy": _near(0.1)},
        ("phones", "k-means MFCC"): {"accuracy": baseline},
        ("phones", "k-means log-mel"): {"accuracy": _near(0.01)},
    }
    (sentence,) = _sentences(metrics)
    assert sentence.startswith("On set, codes predict the phone of ") and sentence.endswith(f"{outcome}.")
    assert "k-means MFCC" in sentence  # the better of the two


def test_lower_error_rates_are_better() -> None:
    metrics = {
        ("abx", MODEL): {"abx_across": _near(0.2)},
        ("abx", "k-means log-mel"): {"abx_across": _near(0.3)},
        ("abx", "k-means MFCC"): {"abx_across": _near(0.4)},
    }
    expected = "k-means log-mel with as many codes: 30.0 % (29.0 to 31.0), so the tokens are better."
    assert _sentences(metrics)[0].endswith(expected)


def test_parts_in_brackets_appear_where_they_were_measured() -> None:
    metrics = {
        ("wer", ORIGINAL): {"wer": _near(0.1)},
        ("wer", RECONSTRUCTION): {"wer": _near(0.5), "wer_shuffled": _near(1.2)},
        ("voice_conversion", CONVERSION): {"closer_to_target": _near(0.9)},
        ("voice_conversion", ORIGINAL): {"equal_error_rate": Estimate(0.02, 0.02, 0.02, 1)},
    }
    conversion, wer = _sentences(metrics)
    assert wer == (
        "On set, the word error rate is 10.0 % (9.0 to 11.0) for original audio, 50.0 % (49.0 to 51.0) for "
        "reconstructions, 120.0 % (119.0 to 121.0) for unrelated speech."
    )
    assert "90.0 % (89.0 to 91.0) of the conversions" in conversion and "on real speech: 2.0 %)" in conversion
    metrics["wer", CONVERSION] = {"wer": _near(0.6)}
    assert "60.0 % (59.0 to 61.0) for conversions" in _sentences(metrics)[1]
    del metrics["wer", ORIGINAL]
    assert len(_sentences(metrics)) == 1  # a required value is missing


def test_undefined_and_missing_values_give_no_sentence() -> None:
    nothing = Estimate(math.nan, math.nan, math.nan, 1)
    assert _sentences({("abx", MODEL): {"abx_across": nothing, "abx_within": nothing}}) == []
    assert _sentences({}) == []


def test_units_are_written() -> None:
    assert formatted(Estimate(0.5, 0.25, 1, 4), "fraction") == "50.0 % (25.0 to 100.0)"
    assert formatted(Estimate(8.7, 8, 9.5, 4), "dB") == "8.700 dB (8.000 to 9.500)"
    assert formatted(Estimate(2, 2, 2, 1), "") == "2.000"
