"""What a report says at its top, in words: the most useful sentence first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vqaudio.metrics.confidence import Estimate
from vqaudio.report.context import CONVERSION, ORIGINAL, OURS, RECONSTRUCTION, UNITS

Found = Callable[[str, str, str], dict[str, Estimate]]  # question, set, system -> figures by name


def sentences(found: Found, sets: Sequence[str]) -> list[str]:
    """Of each set what was measured of phones, words and voices, beside what it is to be compared with."""

    def told(question: str, one: str, system: str) -> dict[str, Estimate]:
        """Without figures that are no numbers: there is nothing to say of them."""
        return {name: own for name, own in found(question, one, system).items() if not math.isnan(own.value)}

    makers = (_phones, _abx, _words, _voices, _speaker)
    return [sentence for make in makers for one in sets if (sentence := make(told, one))]


def _phones(found: Found, one: str) -> str:
    ours, best = found("phones", one, OURS), _best(found, "phones", one, "accuracy", max)
    if not ours:
        return ""
    own = ours["accuracy"]
    text = (
        f"On {one} a code names the phone of {_percent(own)} of the frames ({_percent(ours['majority'])} without codes)"
    )
    if best is None:
        return text + "."
    name, other = best
    return f"{text}; {name} with as many codes names {_percent(other)}: {_outcome(own, other, higher=True)}."


def _abx(found: Found, one: str) -> str:
    ours, best = found("abx", one, OURS), _best(found, "abx", one, "abx_across", min)
    if "abx_across" not in ours:
        return ""
    own = ours["abx_across"]
    text = f"On {one} {_percent(own)} of comparisons of phones across speakers go wrong by the codes (guessing: 50 %)"
    if best is None:
        return text + "."
    name, other = best
    return f"{text}, {_percent(other)} by {name}: {_outcome(own, other, higher=False)}."


def _words(found: Found, one: str) -> str:
    original, spoken = found("words", one, ORIGINAL), found("words", one, RECONSTRUCTION)
    if not original or not spoken:
        return ""
    unrelated = f", of unrelated speech {_percent(spoken['wer_shuffled'])}" if "wer_shuffled" in spoken else ""
    converted = found("words", one, CONVERSION)
    also = f", of a conversion {_percent(converted['wer'])}" if converted else ""
    return (
        f"On {one} the recogniser gets {_percent(original['wer'])} of the words wrong in the original, "
        f"{_percent(spoken['wer'])} in the reconstruction{also}{unrelated}."
    )


def _voices(found: Found, one: str) -> str:
    converted = found("conversion", one, CONVERSION)
    if not converted:
        return ""
    closer, errs = converted["target_closer"], found("conversion", one, ORIGINAL)["equal_error"]
    return (
        f"On {one} {_percent(closer)} of the conversions are nearer to the target's voice than to the source's, by a "
        f"verifier that errs in {_percent(errs)} of real pairs."
    )


def _speaker(found: Found, one: str) -> str:
    ours = found("speaker", one, OURS)
    if not ours:
        return ""
    heard = max(ours["linear_accuracy"], ours["recurrent_accuracy"])
    chance = _percent(ours["chance"])
    return f"On {one} two seconds of codes tell who speaks in {_percent(heard)} of cases (guessing: {chance})."


def _best(found: Found, question: str, one: str, name: str, choose: Callable) -> tuple[str, Estimate] | None:
    """The baseline that is hardest to beat."""
    others = {system: found(question, one, system) for system in UNITS}
    there = {system: figures[name] for system, figures in others.items() if name in figures}
    return choose(there.items(), key=lambda item: item[1].value) if there else None


def _outcome(own: Estimate, other: Estimate, *, higher: bool) -> str:
    apart = min(own.count, other.count) > 1 and (own.low > other.high or own.high < other.low)
    if not apart:
        return "no difference that these utterances could show"
    return "the tokens win" if (own.value > other.value) == higher else "the tokens lose"


def _percent(estimate: Estimate) -> str:
    """With its interval, if it has one."""
    value = f"{100 * estimate.value:.1f} %"
    if estimate.low == estimate.high:
        return value
    return f"{value} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
