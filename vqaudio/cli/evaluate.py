"""Evaluation of a model on held-out data."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from vqaudio.cli.console import (
    Device,
    Model,
    Overwrite,
    Resume,
    Sampling,
    check_resume,
    load_any,
    load_kind,
    print_facts,
    steps,
)
from vqaudio.report.config import ReportConfig
from vqaudio.sampling.config import SamplingConfig

if TYPE_CHECKING:
    from torch import nn

    from vqaudio.report.run import Report

Paths = tuple[Path, ...]
Data = Annotated[
    Paths,
    arg(
        metavar="DIR [DIR ...]",
        help="folders of vqaudio prepare, or manifests; for an image model one folder",
        help_behavior_hint="(required)",
    ),
]
Phones = Annotated[
    Paths,
    arg(
        metavar="PATH [PATH ...]",
        help="phone alignments: folders with ID.phn or ID.TextGrid, .ctm files or .tsv files (vqaudio align)",
    ),
]
Prior = Annotated[str | None, arg(metavar="P", help="a trained prior over the model's codes, evaluated as well")]
BottomModel = Annotated[
    str | None, arg(metavar="M", help="for a hierarchical image model: the bottom-level model whose codes it models")
]
TrainTokens = Annotated[
    Path | None,
    arg(
        metavar="FILE",
        help="for speech: tokens of training utterances, for the bitrates unigram_trained and bigram_trained",
    ),
]
Features = Annotated[
    Paths,
    arg(
        metavar="DIR [DIR ...]",
        help="features of other systems to compare by ABX: folders of ID.npy, (N, D) or (N,) at the model's frame rate",
    ),
]


def evaluate(
    data: Data,
    out: Path,
    model: Model = "mini",
    phones: Phones = (),
    prior: Prior = None,
    bottom_model: BottomModel = None,
    train_tokens: TrainTokens = None,
    features: Features = (),
    report: Annotated[ReportConfig, arg(name="")] = ReportConfig(),  # noqa: B008 (it is frozen)
    sampling: Sampling = SamplingConfig(),
    device: Device = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> int:
    """Evaluate a model on data that it was not trained on; writes report.json and, for speech, an HTML page.

    Speech: conditioning gap, phones, ABX, speaker probe, voice conversion, word error rate, naturalness, signal,
    codebook usage, bitrate and robustness, with confidence intervals and beside k-means and random baselines. The
    page index.html needs no network. Images: bits per dimension, reconstructions, and with --prior bits per code and
    samples. Video (--model of the frames, --prior over their codes): bits per code, sensitivity to the actions, drift.

    Args:
        out: folder for the report
    """
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.speech.prior import CodePrior

    check_resume(resume, overwrite)
    net = load_any(model, device, sampling.threads)
    if not isinstance(net, SpeechVQVAE):
        of_speech = replace(sampling, seed=0, precision="float32", threads=None) != SamplingConfig()
        for_speech = phones or features or train_tokens is not None or report != ReportConfig() or of_speech
        if len(data) != 1 or resume or for_speech:
            raise ValueError(
                f"{model} is an image model: --data takes one folder; --resume, --phones, --features, --train-tokens "
                "and the options of sampling and of the speech report do not apply to it"
            )
        metrics = _evaluate_images(net, model, data[0], out, prior, bottom_model, sampling.seed, device, overwrite)
        _print_metrics(metrics | {"written": str(out)})
        return 0
    if bottom_model is not None:
        raise ValueError(f"--bottom-model is for a hierarchical image model, and {model} is a speech model")
    from vqaudio.report.run import evaluate_speech

    result = evaluate_speech(
        net,
        data,
        out,
        report,
        name=Path(model).name,
        phones=phones,
        features=features,
        prior=None if prior is None else load_kind(prior, device, CodePrior),
        training=train_tokens,
        sampling=sampling,
        overwrite=overwrite,
        resume=resume,
        progress=functools.partial(steps, unit="task"),
    )
    _print_report(result, out / ("index.html" if report.html else "report.json"))
    return 0


def _print_report(report: Report, written: Path) -> None:
    for sentence in filter(None, (report.intelligibility.sentence, *report.summary)):
        print(sentence)
    for sentence in report.unlabelled:
        print_facts({"unlabelled": sentence})
    for own in report.missing:
        print(f"not measured  {own['task']} on {own['set']}: {own['reason']}")
    facts = {"speech": report.intelligibility.level, "training": report.training_health}
    print_facts({**facts, "metrics": str(len(report.results)), "written": str(written)})


def _print_metrics(metrics: dict[str, Any]) -> None:
    """One line per metric; what is a table stays in report.json."""
    shown = {name: value for name, value in metrics.items() if not isinstance(value, list)}
    print_facts({name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in shown.items()})


def _evaluate_images(
    net: nn.Module,
    model: str,
    data: Path,
    out: Path,
    prior: str | None,
    bottom_model: str | None,
    seed: int,
    device: Device,
    overwrite: bool,
) -> dict[str, Any]:
    from torch import nn

    from vqaudio.images.hierarchical import CodeMapVAE, CodeMapVQVAE
    from vqaudio.images.prior import ImagePrior
    from vqaudio.images.report import evaluate_hierarchical, evaluate_images
    from vqaudio.images.vqvae import ImageVQVAE
    from vqaudio.video.prior import VideoPrior
    from vqaudio.video.recording import images_folder
    from vqaudio.video.report import evaluate_video

    if isinstance(net, CodeMapVQVAE | CodeMapVAE):
        if bottom_model is None or prior is not None:
            raise ValueError(
                f"{model} is a hierarchical model: give its bottom-level model with --bottom-model, and no --prior"
            )
        bottom_level = load_kind(bottom_model, device, ImageVQVAE)
        return evaluate_hierarchical(net, bottom_level, data, out, seed=seed, overwrite=overwrite)
    if bottom_model is not None:
        raise ValueError(f"--bottom-model is for a hierarchical image model, and {model} is a bottom-level one")
    code_prior = None if prior is None else load_kind(prior, device, nn.Module)
    if isinstance(code_prior, VideoPrior) and isinstance(net, ImageVQVAE):
        return evaluate_video(code_prior, net, data, out, seed=seed, overwrite=overwrite)
    if code_prior is not None and not isinstance(code_prior, ImagePrior):
        raise ValueError(f"{prior} is a {type(code_prior).__name__}, not a prior over the codes of {model}")
    return evaluate_images(net, images_folder(data), out, code_prior, seed=seed, overwrite=overwrite)
