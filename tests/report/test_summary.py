"""The sentences at the top of a report."""

from __future__ import annotations

import math

import pytest

from vqaudio.metrics.confidence import Estimate
from vqaudio.report.summary import formatted, intelligibility, sentences
from vqaudio.report.systems import CONVERSION, INVERTED, MODEL, ORIGINAL, RECONSTRUCTION


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
        ("naturalness", ORIGINAL): {"mos_overall": Estimate(3.2, 3.1, 3.3, 8)},
        ("naturalness", RECONSTRUCTION): {"mos_overall": Estimate(2.5, 2.4, 2.6, 8)},
        ("voice_conversion", CONVERSION): {"closer_to_target": _near(0.9)},
        ("voice_conversion", ORIGINAL): {"equal_error_rate": Estimate(0.02, 0.02, 0.02, 1)},
    }
    conversion, naturalness = _sentences(metrics)
    assert naturalness == (
        "On set, the predicted opinion score (DNSMOS, 1 to 5) is 3.200 (3.100 to 3.300) for original audio, 2.500 "
        "(2.400 to 2.600) for reconstructions."
    )
    assert "90.0 % (89.0 to 91.0) of the conversions" in conversion and "on real speech: 2.0 %)" in conversion
    metrics["naturalness", CONVERSION] = {"mos_overall": Estimate(2.0, 1.9, 2.1, 8)}
    assert "2.000 (1.900 to 2.100) for conversions" in _sentences(metrics)[1]
    del metrics["naturalness", ORIGINAL]
    assert len(_sentences(metrics)) == 1  # a required value is missing


def test_losses_are_attributed_to_codes_and_decoder() -> None:
    metrics = {
        ("wer", INVERTED): {"wer": _near(0.07)},
        ("wer", "reconstruction (Griffin-Lim)"): {"wer": _near(0.37), "wer_lost_by_codes": _near(0.3)},
        ("wer", "reconstruction (WaveNet)"): {"wer": _near(0.12), "wer_lost_by_wavenet": _near(-0.25)},
    }
    assert _sentences(metrics) == [
        "On set, the codes change the word error rate by 30.0 % (29.0 to 31.0), from 7.0 % (6.0 to 8.0) (the "
        "original's log-mel spectrum) to 37.0 % (36.0 to 38.0) (the spectrum predicted from the codes); the WaveNet "
        "by a further -25.0 % (-26.0 to -24.0), to 12.0 % (11.0 to 13.0)."
    ]
    del metrics["wer", "reconstruction (WaveNet)"]  # of a model with stage: codes
    assert _sentences(metrics)[0].endswith("(the spectrum predicted from the codes).")
    conversions = {("wer", name.replace("reconstruction", "conversion")): own for (_, name), own in metrics.items()}
    (sentence,) = _sentences(conversions | {("wer", INVERTED): metrics["wer", INVERTED]})  # of unknown speakers
    assert sentence == (
        "On set, in conversions codes and speaker change the word error rate by 30.0 % (29.0 to 31.0), from 7.0 % (6.0 "
        "to 8.0) to 37.0 % (36.0 to 38.0)."
    )


@pytest.mark.parametrize(
    ("reconstructions", "conversions", "level"),
    [
        (0.1, 0.15, "intelligible"),
        (0.1, 0.16, "partly intelligible"),  # the worst counts
        (0.45, None, "partly intelligible"),
        (None, 0.46, "unintelligible"),  # speakers that the model does not know are only converted
    ],
)
def test_intelligibility_is_that_of_the_worst_speech_beside_the_original(
    reconstructions: float | None, conversions: float | None, level: str
) -> None:
    rates = {ORIGINAL: 0.05, RECONSTRUCTION: reconstructions, CONVERSION: conversions}
    known = {name: {"wer": Estimate(rate, rate, rate, 1)} for name, rate in rates.items() if rate is not None}
    easy = {name: {"wer": Estimate(0.02, 0.02, 0.02, 1)} for name in (ORIGINAL, CONVERSION)}
    sets = {"easy": easy, "set": known}
    lookup = lambda task, name, system: sets.get(name, {}).get(system, {})  # noqa: E731
    found = intelligibility(lookup, ["set", "none", "easy"], "by WaveNet")
    assert found.level == level
    assert found.sentence.startswith(f"Decoded speech (by WaveNet) is {level} on set, with a word error rate of ")
    end = "intelligible on easy, with a word error rate of 2.0 % for conversions, original audio 2.0 %."
    assert found.sentence.endswith(f", original audio 5.0 %; {end}") and "none" not in found.sentence
    for kind, rate in (("reconstructions", reconstructions), ("conversions", conversions)):
        assert (f"{0 if rate is None else 100 * rate:.1f} % for {kind}" in found.sentence) == (rate is not None)


def test_without_words_nothing_is_said_about_intelligibility() -> None:
    assert intelligibility(lambda *_: {}, ["set"], "") == ("not measured", "")
    original = {ORIGINAL: {"wer": _near(0.1)}}
    assert intelligibility(lambda task, name, system: original.get(system, {}), ["set"], "") == ("not measured", "")


def test_undefined_and_missing_values_give_no_sentence() -> None:
    nothing = Estimate(math.nan, math.nan, math.nan, 1)
    assert _sentences({("abx", MODEL): {"abx_across": nothing, "abx_within": nothing}}) == []
    assert _sentences({}) == []


def test_units_are_written() -> None:
    assert formatted(Estimate(0.5, 0.25, 1, 4), "fraction") == "50.0 % (25.0 to 100.0)"
    assert formatted(Estimate(8.7, 8, 9.5, 4), "dB") == "8.700 dB (8.000 to 9.500)"
    assert formatted(Estimate(2, 2, 2, 1), "") == "2.000"
