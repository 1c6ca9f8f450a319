"""The report of a speech model: every task on every set, as report.json and an HTML page."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from vqaudio.atomic import check_output_folder, save_json
from vqaudio.fingerprint import fingerprint
from vqaudio.json_text import parse_json
from vqaudio.metrics.asr import WhisperASR
from vqaudio.metrics.bitrate import Bitrates
from vqaudio.metrics.conditioning_gap import gap_metrics
from vqaudio.metrics.confidence import Estimate
from vqaudio.report.assets import AUDIO, PICTURES, check_drawing, page_assets
from vqaudio.report.compute import check_features, compute
from vqaudio.report.config import ReportConfig
from vqaudio.report.context import EvaluationContext, enrolment, fit_kmeans_baselines
from vqaudio.report.datasets import EvaluationSet, open_sets
from vqaudio.report.decoded import invertible_spectrum
from vqaudio.report.journal import JOURNAL, Journal, hash_of_files
from vqaudio.report.page import INDEX, write_page
from vqaudio.report.published import PUBLISHED
from vqaudio.report.summary import NOT_MEASURED, Intelligibility, intelligibility, sentences
from vqaudio.report.systems import (
    CONVERSION,
    INVERTED,
    RECONSTRUCTION,
    TITLES,
    NotApplicableError,
    conversion,
    reconstruction,
)
from vqaudio.report.tasks import TASKS, Task
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior
from vqaudio.speech.vocoders import Vocoder
from vqaudio.tokens.chunks import sequences
from vqaudio.tokens.files import read_tokens
from vqaudio.tokens.sampling import check_prior
from vqaudio.training.health import TRAINED, assess

REPORT = "report.json"


class Result(NamedTuple):
    """One value of one metric."""

    task: str  # keys of the task and of the metric in the registry
    set: str
    system: str
    metric: str
    estimate: Estimate


@dataclass
class Report:
    """All results, and what was not measured."""

    results: list[Result] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)
    """{"task", "set", "reason"} of what could not be computed"""
    intelligibility: Intelligibility = NOT_MEASURED
    """whether decoded speech can be understood, from the task wer"""
    training_health: str = "not measured"
    """the verdict on the training, computed with the task conditioning_gap"""
    summary: list[str] = field(default_factory=list)
    """sentences"""
    unlabelled: list[str] = field(default_factory=list)
    """sentences with the number of utterances that lack labels or whose speakers are not in the model"""
    vocoder: Vocoder = "wavenet"
    """the default vocoder, which the systems "reconstruction" and "conversion" of the summary stand for"""

    def of(self, task: str, set: str, system: str) -> dict[str, Estimate]:
        """Metric key -> estimate; the systems "reconstruction" and "conversion" are those of the default vocoder."""
        system = {RECONSTRUCTION: reconstruction, CONVERSION: conversion}.get(system, lambda _: system)(self.vocoder)
        return {result.metric: result.estimate for result in self.results if result[:3] == (task, set, system)}


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
    sampling: SamplingConfig = SamplingConfig(),
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> Report:
    """Computes every task on every set -> OUT/report.json and, unless `cfg.html` is off, OUT/index.html.

    `data`: manifests, or folders of `vqaudio prepare`, whose test.jsonl is evaluated; their train.jsonl gives the
    k-means baselines and the speaker verifier their speech. `phones`: alignments (`find_alignments`). `features`:
    folders of ID.npy at the model's frame rate, further systems for ABX. `training`: a token file of training
    utterances, for the bitrates whose names end in _trained. What cannot be computed is listed in `Report.missing` with
    the reason. `sampling`: how samples are drawn for utterances that are decoded; its seed is that of crops, baselines
    and probes too. `resume`: the results of each task are kept in `out` until the report is written, those of an
    interrupted evaluation of the same content are not computed again, and a finished report of it is returned.

    Raises ValueError for a prior or tokens of another model, labels without a phone class, an unknown speech recogniser
    and what `open_sets` refuses, FileNotFoundError where there is no manifest, AudioError for an utterance that cannot
    be used; FileExistsError for an existing report without `overwrite`, and for the report or the kept results of
    another evaluation with `resume`.
    """
    tasks = [task for task in TASKS if not cfg.only or task.key in cfg.only]
    sets = _checked_sets(model, data, cfg, phones, features, prior)
    interrupted = resume and (out / JOURNAL).is_file()
    finished = resume and not interrupted and (out / REPORT).is_file()
    overwrite = overwrite or interrupted  # the page may have been written; `Journal` refuses another evaluation
    check_output_folder(out, [] if finished else [REPORT, INDEX], overwrite)
    contexts = _contexts(model, sets, cfg, tasks, features, prior, training, sampling)
    identity = _identity(model, contexts, cfg, features, prior, training)
    if finished:
        return _read_report(out / REPORT, identity, contexts, tasks)
    journal = Journal(out / JOURNAL if resume else None, identity)
    report = _compute_all(contexts, tasks, progress, journal)
    _summarise(report, contexts, tasks, cfg)
    facts = _as_json(report, model, name, contexts, cfg) | {"identity": identity}
    _write(facts, contexts, cfg, tasks, out, overwrite=overwrite)
    journal.remove()
    return report


def _read_report(path: Path, identity: str, contexts: Sequence[EvaluationContext], tasks: Sequence[Task]) -> Report:
    """The finished report `path`. Raises FileExistsError for a report of something else."""
    try:
        facts = parse_json(path.read_bytes())
        if facts["identity"] != identity:
            raise ValueError("another identity")
        report = Report(
            [_result(row) for row in facts["metrics"]],
            facts["missing"],
            Intelligibility(**facts["intelligibility"]),
            facts["training_health"],
            facts["summary"],
            _unlabelled(contexts, tasks),
            facts["model"]["vocoder"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise FileExistsError(
            f"{path} is not the report that this evaluation would write; pass --overwrite instead of --resume to "
            "replace it, or give another --out"
        ) from error
    return report


def _checked_sets(
    model: SpeechVQVAE,
    data: Sequence[Path],
    cfg: ReportConfig,
    phones: Sequence[Path],
    features: Sequence[Path],
    prior: CodePrior | None,
) -> list[EvaluationSet]:
    """The sets, once the prior, the packages for the page, the data and the features have been checked."""
    if prior is not None:
        check_prior(prior, model)
    if cfg.html:
        check_drawing()
    sets = [one.limited(cfg.max_utterances) for one in open_sets(data, phones, model.sample_rate)]
    check_features(features, [id for one in sets for id in one.alignments])
    return sets


def _contexts(
    model: SpeechVQVAE,
    sets: Sequence[EvaluationSet],
    cfg: ReportConfig,
    tasks: Sequence[Task],
    features: Sequence[Path],
    prior: CodePrior | None,
    training: Path | None,
    sampling: SamplingConfig,
) -> list[EvaluationContext]:
    """One for each set. What can fail before hours of work fails here: labels without a class, unreadable audio, an
    unknown speech recogniser.
    """
    train_codes = None
    if training is not None:
        speakers = prior.cfg.speakers if prior is not None else ()
        train_codes = sequences(read_tokens(training), speakers, model.codebook_size, model.fingerprint)
    kmeans = functools.cache(lambda: fit_kmeans_baselines(sets, model, sampling.seed))
    spectrum = functools.cache(lambda: invertible_spectrum(model, sets))
    enrolled = enrolment(sets, model.speakers)
    load_asr = functools.cache(lambda: WhisperASR(cfg.asr))
    if any(task.key == "wer" for task in tasks):
        with contextlib.suppress(ModuleNotFoundError):  # the task will report it
            load_asr()
    contexts = [
        EvaluationContext(
            model,
            one,
            kmeans,
            spectrum,
            enrolled,
            phone_classes=cfg.phone_classes,
            decoded_utterances=cfg.decoded_utterances,
            sampling=sampling,
            load_asr=load_asr,
            features=features,
            prior=prior,
            train_codes=train_codes,
        )
        for one in sets
    ]
    for context in contexts:
        _ = context.alignments, context.rows
    return contexts


def _identity(
    model: SpeechVQVAE,
    contexts: Sequence[EvaluationContext],
    cfg: ReportConfig,
    features: Sequence[Path],
    prior: CodePrior | None,
    training: Path | None,
) -> str:
    """A hash of everything that results depend on, by content: the data may lie anywhere."""
    digest = hashlib.sha256(fingerprint({}, model.state_dict()).encode())
    digest.update(repr(model.cfg).encode())
    for context in contexts:
        digest.update(context.dataset.name.encode())
        for utterance in context.dataset.utterances:
            digest.update(repr((utterance.id, utterance.speaker, utterance.text)).encode())
        digest.update(repr(hash_of_files(utterance.path for utterance in context.dataset.utterances)).encode())
        digest.update(repr(context.alignments).encode())
        for utterance in context.dataset.training:  # may be a large corpus, which is not read for this
            size = utterance.path.stat().st_size if utterance.path.exists() else 0
            digest.update(repr((utterance.id, utterance.speaker, utterance.text, utterance.seconds, size)).encode())
    own = None if prior is None else fingerprint({}, prior.state_dict())
    asr = [Path(cfg.asr)] if Path(cfg.asr).is_dir() else []
    files = hash_of_files([*features, *([] if training is None else [training]), *asr])
    settings = cfg, [path.name for path in features], own, files, replace(contexts[0].sampling, threads=None)
    digest.update(repr(settings).encode())
    return digest.hexdigest()


def _compute_all(
    contexts: Sequence[EvaluationContext],
    tasks: Sequence[Task],
    progress: Callable[[Sequence[Any]], Iterable[Any]],
    journal: Journal,
) -> Report:
    report = Report(vocoder=_default_vocoder(contexts[0].model))
    for context, task in progress([(context, task) for context in contexts for task in tasks]):
        name = context.dataset.name
        found = journal.done.get((task.key, name))
        if found is None:
            found, package_missing = _found(task, context)
            if not package_missing:  # it may be installed before the evaluation is resumed
                journal.append(task.key, name, found)
        for system, metric, estimate in found["results"]:
            report.results.append(Result(task.key, name, system, metric, Estimate(*estimate)))
        if found["reason"] is not None:
            report.missing.append({"task": task.key, "set": name, "reason": found["reason"]})
    return report


def _summarise(report: Report, contexts: Sequence[EvaluationContext], tasks: Sequence[Task], cfg: ReportConfig) -> None:
    """Adds the sentences and verdicts to a report with all results."""
    if any(task.key == "conditioning_gap" for task in tasks):
        report.training_health = _training_health(contexts)
    names = [context.dataset.name for context in contexts]
    how = f"by {TITLES[report.vocoder]}, recognised by Whisper {cfg.asr}"
    report.intelligibility, report.summary = intelligibility(report.of, names, how), sentences(report.of, names)
    if contexts[0].model.spectrum is None and any(result.system == INVERTED for result in report.results):
        report.summary.append(
            "The model has no spectrum head: the spectrum of its codes is predicted by ridge regression from codes of "
            "training utterances."
        )
    report.unlabelled = _unlabelled(contexts, tasks)


def _unlabelled(contexts: Sequence[EvaluationContext], tasks: Sequence[Task]) -> list[str]:
    said = []
    for context in contexts:
        of_all = f"of {len(context.dataset.utterances)} utterances of {context.dataset.name} are"
        said += [f"{n} {of_all} without {labels}" for labels, n in context.dataset.unlabelled.items()]
        if (unknown := context.unknown_speakers) and any(task.decodes for task in tasks):
            said.append(f"{unknown} {of_all} by speakers that are not in the model; only the others are decoded")
    return said


def _found(task: Task, context: EvaluationContext) -> tuple[dict[str, Any], bool]:
    """{"results": [system, metric, estimate], "reason": why (more of) the task could not be computed, or None}.

    And whether the reason is a package that is not installed.
    """
    results: list[tuple[str, str, Estimate]] = []
    reason, package_missing = None, False
    try:
        for system, metrics in compute(task, context):
            for key, (value, low, high, count) in metrics.items():  # NumPy's numbers are not JSON
                estimate = Estimate(float(value), float(low), float(high), int(count))
                results.append((system, task.metric(key).key, estimate))
    # not applicable, too little speech, phones or words (ValueError), or a package that is not installed
    except (NotApplicableError, ValueError, ModuleNotFoundError) as error:
        reason, package_missing = str(error), isinstance(error, ModuleNotFoundError)
    return {"results": results, "reason": reason}, package_missing


def _write(
    facts: dict[str, Any],
    contexts: Sequence[EvaluationContext],
    cfg: ReportConfig,
    tasks: Sequence[Task],
    out: Path,
    *,
    overwrite: bool,
) -> None:
    """Replaces an earlier report by the page, unless `cfg.html` is off, and the JSON file."""
    if any(task.key == "bitrate" for task in tasks):
        facts = facts | {"rates": {context.dataset.name: _rates(context.bitrates) for context in contexts}}
    _clear(out)
    if cfg.html:
        assets = page_assets(contexts, out, decoded=any(task.decodes for task in tasks))
        write_page(facts | assets, out, overwrite=overwrite)
    save_json(out / REPORT, facts, overwrite=overwrite)


def _clear(out: Path) -> None:
    """Removes the page, audio and pictures of an earlier report, so that they do not stay beside new results."""
    if not (out / INDEX).is_file():
        return  # then files in these folders do not come from a report
    for file in [out / INDEX, *(out / AUDIO).glob("*.wav"), *(out / PICTURES).glob("*.png")]:
        file.unlink(missing_ok=True)


def _default_vocoder(model: SpeechVQVAE) -> Vocoder:
    """That of the model; where the decoder is not trained, Griffin-Lim."""
    return model.cfg.vocoder if model.cfg.vocoder in model.vocoders else "griffin-lim"


def _training_health(contexts: Sequence[EvaluationContext]) -> str:
    """Computed on the first set with speakers that are in the model."""
    reason = ""
    for context in contexts:
        try:
            return str(assess(gap_metrics(context.nll), 0, TRAINED))
        except NotApplicableError as error:
            reason = str(error)
    return f"not available: {reason}"


def _as_json(
    report: Report, model: SpeechVQVAE, name: str, contexts: Sequence[EvaluationContext], cfg: ReportConfig
) -> dict[str, Any]:
    """The same input gives the same output."""
    tasks = {task.key: task for task in TASKS}
    return {
        "title": f"Evaluation of {name or 'a speech tokenizer'}",
        "model": {
            "name": name,
            "fingerprint": model.fingerprint,
            "frame_rate": model.frame_rate,
            "hop": model.hop,
            "sample_rate": model.sample_rate,
            "codebook_size": model.codebook_size,
            "speakers": list(model.speakers),
            "vocoder": report.vocoder,
            "nominal_bits_per_second": model.frame_rate * math.log2(model.codebook_size),
        },
        "asr": cfg.asr,
        "sampling": {name: value for name, value in asdict(contexts[0].sampling).items() if name != "threads"},
        "intelligibility": report.intelligibility._asdict(),
        "training_health": report.training_health,
        "summary": report.summary,
        "sets": [
            {
                "name": context.dataset.name,
                "utterances": len(context.dataset.utterances),
                "speakers": len(context.dataset.speakers),
                "seconds": round(context.dataset.seconds, 1),
                "available": context.dataset.available,
                "unlabelled": context.dataset.unlabelled,
            }
            for context in contexts
        ],
        "tasks": [{"key": task.key, "title": task.title, "description": task.description} for task in TASKS],
        "metrics": [_as_row(result, tasks[result.task]) for result in report.results],
        "missing": report.missing,
        "published": [own._asdict() | {"unit": tasks[own.task].metric(own.metric).unit} for own in PUBLISHED],
    }


def _rates(rates: Bitrates) -> dict[str, Any]:
    """For all utterances and for each speaker; utterances without a speaker are under ""."""
    return {
        "overall": {name: rate._asdict() for name, rate in rates.overall.items()},
        "by_speaker": {
            speaker or "": {name: rate._asdict() for name, rate in own.items()}
            for speaker, own in rates.by_speaker.items()
        },
    }


def _as_row(result: Result, task: Task) -> dict[str, Any]:
    metric = task.metric(result.metric)
    names = {"task": result.task, "set": result.set, "system": result.system, "metric": result.metric}
    numbers = {name: _number(value) for name, value in result.estimate._asdict().items()}
    return {**names, **numbers, "unit": metric.unit, "better": metric.better, "meaning": metric.meaning}


def _result(row: dict[str, Any]) -> Result:
    """The inverse of `_as_row`."""
    value, low, high = (math.nan if row[key] is None else row[key] for key in ("value", "low", "high"))
    return Result(row["task"], row["set"], row["system"], row["metric"], Estimate(value, low, high, row["count"]))


def _number(value: float) -> float | None:
    """None for NaN and infinity, which JSON lacks."""
    return value if math.isfinite(value) else None
