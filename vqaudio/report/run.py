"""The report of a speech model: every question asked on every set, as figures.json and a page to read and listen to."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vqaudio.atomic import check_out, save_json
from vqaudio.kernels.wavenet import Precision
from vqaudio.metrics.asr import HubRecogniser, Recogniser, SphinxRecogniser
from vqaudio.metrics.bitrate import Bitrates
from vqaudio.metrics.conditioning_gap import summary
from vqaudio.metrics.confidence import Estimate
from vqaudio.report.assets import AUDIO, PICTURES, check_drawing
from vqaudio.report.config import SPHINX, ReportConfig
from vqaudio.report.context import EvaluationContext, NotApplicableError, enrolment, fit_units
from vqaudio.report.datasets import open_sets
from vqaudio.report.meanings import meanings
from vqaudio.report.page import INDEX, write_page
from vqaudio.report.published import PUBLISHED
from vqaudio.report.showing import show
from vqaudio.report.summary import sentences
from vqaudio.report.tasks import QUESTIONS, SPEAKING, Question, check_features
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior
from vqaudio.speech.synthesis import DecodeOptions
from vqaudio.tokens.chunks import sequences
from vqaudio.tokens.files import read_tokens
from vqaudio.tokens.sampling import check_prior
from vqaudio.training.health import TRAINED, judge

FIGURES = "figures.json"


class Figure(NamedTuple):
    """One line of the report."""

    question: str
    set: str
    system: str
    name: str
    estimate: Estimate


@dataclass
class Report:
    """What was found, and what was not."""

    figures: list[Figure] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)
    """question, set, why"""
    verdict: str = "not asked"
    summary: list[str] = field(default_factory=list)
    """sentences, the most useful first"""

    def of(self, question: str, set: str, system: str) -> dict[str, Estimate]:
        """Figures by name."""
        return {f.name: f.estimate for f in self.figures if f[:3] == (question, set, system)}


def evaluate_speech(
    model: SpeechVQVAE,
    data: Sequence[Path],
    out: Path,
    cfg: ReportConfig,
    *,
    name: str = "",
    phones: Sequence[Path] = (),
    features: Sequence[Path] = (),
    prior: CodePrior | None = None,
    training: Path | None = None,
    precision: Precision = "float32",
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> Report:
    """Every question on every set that it can be asked of -> OUT/figures.json and OUT/index.html.

    `data`: manifests, or folders of `vqaudio prepare`, of which test.jsonl is evaluated, and train.jsonl gives the
    baseline its speech, voices their enrolment and the recogniser more texts. `phones`: alignments (`find_alignments`).
    `features`: folders of ID.npy at the model's frame rate, further systems for ABX. `training`: a token file of
    training utterances, on which bits are counted too. Utterances are limited to what `cfg` says.

    Raises ValueError for a prior or tokens of another model, labels without a class and what `open_sets` refuses,
    FileNotFoundError where there is no manifest, AudioError for an utterance that cannot be used; FileExistsError
    without `overwrite`.
    """
    if prior is not None:
        check_prior(prior, model)
    if cfg.html:
        check_drawing()
    asked = [question for question in QUESTIONS if not cfg.only or question.key in cfg.only]
    keys = {question.key for question in asked}
    sets = [one.limited(cfg.max_utterances) for one in open_sets(data, phones, model.sample_rate)]
    check_features(features, [id for one in sets for id in one.alignments])
    check_out(out, [FIGURES, INDEX], overwrite)
    known = prior.cfg.speakers if prior is not None else ()
    counted = None
    if training is not None:
        counted = sequences(read_tokens(training), known, model.codebook_size, model.fingerprint)
    units, enrolled = functools.cache(lambda: fit_units(sets, model, seed)), enrolment(sets, model.speakers)
    recogniser = _recogniser(cfg.asr) if "words" in keys else SphinxRecogniser
    options: DecodeOptions = {"temperature": cfg.temperature, "top_k": cfg.top_k, "precision": precision, "seed": seed}
    subjects = [
        EvaluationContext(
            model,
            one,
            units,
            enrolled,
            classes="paper" if cfg.phone_classes == "paper" else "as they are",
            spoken_utterances=cfg.decoded_utterances,
            options=options,
            seed=seed,
            recogniser=recogniser,
            features=features,
            prior=prior,
            training=counted,
        )
        for one in sets
    ]
    for subject in subjects:  # before hours of work: labels without a class, audio that cannot be read
        _ = subject.alignments, subject.rows
    report = _ask(subjects, asked, progress)
    facts = _plain(report, model, name, subjects)
    if "bits" in keys:
        facts["rates"] = {subject.set.name: _rates(subject.rates) for subject in subjects}
    _clear(out)
    if cfg.html:
        write_page(facts | show(subjects, out, spoken=bool(keys & SPEAKING)), out, overwrite=overwrite)
    save_json(out / FIGURES, facts, overwrite=overwrite)
    return report


def _ask(
    subjects: Sequence[EvaluationContext], asked: Sequence[Question], progress: Callable[[Sequence[Any]], Iterable[Any]]
) -> Report:
    """What cannot be asked of a set is told with its reason, and the rest goes on."""
    report = Report()
    for subject, question in progress([(subject, question) for subject in subjects for question in asked]):
        try:
            for system, found in question.answer(subject):
                report.figures += [Figure(question.key, subject.set.name, system, *item) for item in found.items()]
        # too little speech, phones or words (ValueError), or an extra that is not installed
        except (NotApplicableError, ValueError, ModuleNotFoundError) as error:
            report.missing.append({"question": question.key, "set": subject.set.name, "why": str(error)})
    if any(question.key == "listening" for question in asked):
        report.verdict = _verdict(subjects)
    report.summary = sentences(report.of, [subject.set.name for subject in subjects])
    return report


def _clear(out: Path) -> None:
    """Takes away what an earlier report left there, so that no old page stands beside new figures."""
    if not (out / INDEX).is_file():
        return  # what lies in such folders then is not ours
    for file in [out / INDEX, *(out / AUDIO).glob("*.wav"), *(out / PICTURES).glob("*.png")]:
        file.unlink(missing_ok=True)


def _recogniser(name: str) -> Callable[[Sequence[str]], Recogniser]:
    """One of the Hub is fetched now, not after hours of work."""
    if name == SPHINX:
        return SphinxRecogniser
    fetched = HubRecogniser(name)
    return lambda texts: fetched


def _verdict(subjects: Sequence[EvaluationContext]) -> str:
    """Of the first set whose speakers the model knows."""
    reason = ""
    for subject in subjects:
        try:
            return str(judge(summary(subject.nll), 0, TRAINED))
        except NotApplicableError as error:
            reason = str(error)
    return f"not told: {reason}"


def _plain(report: Report, model: SpeechVQVAE, name: str, subjects: Sequence[EvaluationContext]) -> dict[str, Any]:
    """As JSON holds it; the same input gives the same."""
    return {
        "title": f"What the tokens of {name or 'a model'} know",
        "model": {
            "name": name,
            "fingerprint": model.fingerprint,
            "frame_rate": model.frame_rate,
            "hop": model.hop,
            "sample_rate": model.sample_rate,
            "codebook_size": model.codebook_size,
            "speakers": list(model.speakers),
            "nominal_bits_per_second": model.frame_rate * math.log2(model.codebook_size),
        },
        "spoken_with": dict(subjects[0].options),
        "verdict": report.verdict,
        "summary": report.summary,
        "sets": [
            {
                "name": subject.set.name,
                "utterances": len(subject.set.utterances),
                "speakers": len(subject.set.speakers),
                "seconds": round(subject.set.seconds, 1),
                "has": subject.set.has,
            }
            for subject in subjects
        ],
        "questions": [{"key": q.key, "title": q.title, "asks": q.asks} for q in QUESTIONS],
        "figures": [_line(figure) for figure in report.figures],
        "missing": report.missing,
        "published": [published._asdict() for published in PUBLISHED],
    }


def _rates(rates: Bitrates) -> dict[str, Any]:
    """Of all utterances, and of each speaker; of those whose speaker is not known under ""."""
    return {
        "overall": {name: rate._asdict() for name, rate in rates.overall.items()},
        "by_speaker": {
            who or "": {name: rate._asdict() for name, rate in own.items()} for who, own in rates.by_speaker.items()
        },
    }


def _line(figure: Figure) -> dict[str, Any]:
    meaning = meanings()[figure.name]
    numbers = {name: _number(value) for name, value in figure.estimate._asdict().items()}
    names = {"question": figure.question, "set": figure.set, "system": figure.system, "name": figure.name}
    return {**names, **numbers, "unit": meaning.unit, "better": meaning.better, "meaning": meaning.sentence}


def _number(value: float) -> float | None:
    """JSON has no word for what is no number."""
    return value if math.isfinite(value) else None
