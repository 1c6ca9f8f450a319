"""What a model is worth."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from vqaudio.cli.console import Device, Model, Overwrite, Precision, Threads, load_any, load_kind, print_facts, steps
from vqaudio.report.config import ReportConfig

if TYPE_CHECKING:
    from torch import nn

Paths = tuple[Path, ...]
Data = Annotated[
    Paths,
    arg(
        metavar="DIR [DIR ...]",
        help="folders of vqaudio prepare, or manifests; of images one folder",
        help_behavior_hint="(required)",
    ),
]
Phones = Annotated[
    Paths,
    arg(
        metavar="PATH [PATH ...]",
        help="alignments: folders with ID.phn or ID.TextGrid, .ctm or .tsv files (vqaudio align)",
    ),
]
Prior = Annotated[str | None, arg(metavar="P", help="a prior over the model's codes, evaluated too")]
First = Annotated[str | None, arg(metavar="M", help="for a second level: the image model whose codes it models")]
TrainTokens = Annotated[
    Path | None,
    arg(metavar="FILE", help="of speech: tokens of training utterances, on which bits are counted too"),
]
Features = Annotated[
    Paths,
    arg(
        metavar="DIR [DIR ...]",
        help="folders of ID.npy, (N, D) or (N,) at the model's frame rate: further systems for ABX",
    ),
]


def evaluate(
    data: Data,
    out: Path,
    model: Model = "mini",
    phones: Phones = (),
    prior: Prior = None,
    first: First = None,
    train_tokens: TrainTokens = None,
    features: Features = (),
    report: Annotated[ReportConfig, arg(name="")] = ReportConfig(),  # noqa: B008 (it is frozen)
    precision: Precision = "float32",
    seed: int = 0,
    threads: Threads = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> int:
    """What a model is worth on data that it was not trained on: figures.json, and a page to read and listen to.

    Speech: what the tokens know of phones, speakers and words, how the decoder speaks them, what they cost and how
    stable they are, beside k-means of spectral features and random codes; index.html opens without a network. Images:
    bits per dimension, reconstructions, and with --prior bits per code and samples.

    Args:
        out: folder for the report
        seed: of crops, halves and draws
    """
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.speech.prior import CodePrior

    net = load_any(model, device, threads)
    if not isinstance(net, SpeechVQVAE):
        if len(data) != 1 or phones or features or train_tokens is not None or report != ReportConfig():
            raise ValueError(
                f"{model} is an image model: --data is one folder, and --phones, --features, --train-tokens "
                "and what a report asks are for speech"
            )
        figures = _of_images(net, model, data[0], out, prior, first, seed, device, overwrite)
        print_facts(
            {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in figures.items()}
        )
        print_facts({"written": str(out)})
        return 0
    if first is not None:
        raise ValueError(f"--first is for a second level over images, and {model} is a model of speech")
    from vqaudio.report.run import evaluate_speech

    found = evaluate_speech(
        net,
        data,
        out,
        report,
        name=Path(model).name,
        phones=phones,
        features=features,
        prior=None if prior is None else load_kind(prior, device, CodePrior),
        training=train_tokens,
        precision=precision,
        seed=seed,
        overwrite=overwrite,
        progress=functools.partial(steps, unit="question"),
    )
    for sentence in found.summary:
        print(sentence)
    for lack in found.missing:
        print(f"not measured  {lack['question']} on {lack['set']}: {lack['why']}")
    print_facts({"verdict": found.verdict, "figures": str(len(found.figures)), "written": str(out)})
    return 0


def _of_images(
    net: nn.Module,
    model: str,
    data: Path,
    out: Path,
    prior: str | None,
    first: str | None,
    seed: int,
    device: Device,
    overwrite: bool,
) -> dict[str, float | str]:
    from vqaudio.images.hierarchical import CodeMapVAE, CodeMapVQVAE
    from vqaudio.images.prior import ImagePrior
    from vqaudio.images.report import evaluate_hierarchical, evaluate_images
    from vqaudio.images.vqvae import ImageVQVAE

    if isinstance(net, CodeMapVQVAE | CodeMapVAE):
        if first is None or prior is not None:
            raise ValueError(
                f"{model} is a second level: --first names the image model whose codes it models, no --prior"
            )
        below = load_kind(first, device, ImageVQVAE)
        return evaluate_hierarchical(net, below, data, out, seed=seed, overwrite=overwrite)
    if first is not None:
        raise ValueError(f"--first is for a second level; {model} is an image model")
    over = None if prior is None else load_kind(prior, device, ImagePrior)
    return evaluate_images(net, data, out, over, seed=seed, overwrite=overwrite)
