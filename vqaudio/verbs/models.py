"""Facts and figures of models, and what their priors make up."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.console import Device, Model, Overwrite, Threads, load_any, load_kind, tell


def evaluate(
    data: Path,
    out: Path,
    model: Model = "mini",
    prior: Annotated[str | None, arg(metavar="P", help="a prior over the model's codes, evaluated too")] = None,
    first: Annotated[
        str | None, arg(metavar="M", help="for a second level: the image model whose codes it models")
    ] = None,
    train_tokens: Annotated[
        Path | None,
        arg(metavar="FILE", help="of speech: tokens of training utterances, whose counts are compared with"),
    ] = None,
    seed: int = 0,
    threads: Threads = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> int:
    """What a model is worth on data that it was not trained on, as figures.json and, for images, pictures.

    Speech: bits per sample, what the decoder loses with other codes, their mean or another speaker, how many codes are
    in use, a verdict, and what the tokens cost in bits per second, with --prior also under that. Images: bits per
    dimension, reconstructions, and with --prior bits per code and samples.

    Args:
        data: what vqaudio prepare wrote: a folder with test.jsonl (a manifest will do) or with packed images in test
        out: folder for the figures
        seed: of the crops, and of all draws
    """
    from vqaudio.evaluation.image_report import evaluate_images, evaluate_second_level
    from vqaudio.evaluation.report import evaluate_speech
    from vqaudio.models.image import ImageVQVAE
    from vqaudio.models.prior import CodePrior, ImagePrior
    from vqaudio.models.second import CodeMapVAE, CodeMapVQVAE
    from vqaudio.models.speech import SpeechVQVAE

    net = load_any(model, device, threads)
    if isinstance(net, SpeechVQVAE):
        if first is not None:
            raise ValueError(f"--first is for a second level over images, and {model} is a model of speech")
        over = None if prior is None else load_kind(prior, device, CodePrior)
        figures = evaluate_speech(net, data, out, prior=over, training=train_tokens, seed=seed, overwrite=overwrite)
    elif isinstance(net, CodeMapVQVAE | CodeMapVAE):
        if first is None or prior is not None:
            raise ValueError(
                f"{model} is a second level: --first names the image model whose codes it models, no --prior"
            )
        below = load_kind(first, device, ImageVQVAE)
        figures = evaluate_second_level(net, below, data, out, seed=seed, overwrite=overwrite)
    else:
        if first is not None or train_tokens is not None:
            raise ValueError(f"--first is for a second level and --train-tokens for speech; {model} is an image model")
        over = None if prior is None else load_kind(prior, device, ImagePrior)
        figures = evaluate_images(net, data, out, over, seed=seed, overwrite=overwrite)
    tell({name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in figures.items()})
    tell({"written": str(out)})
    return 0


def info(subject: Positional[Annotated[str, arg(metavar="M_OR_TOKENS")]]) -> int:
    """Facts about a model or about a token file.

    Args:
        subject: a model (a shipped name, a folder, a Hugging Face Hub id), or tokens (a .jsonl or
            .parquet file, or a folder)
    """
    from vqaudio.models.speech import SpeechVQVAE
    from vqaudio.tokens.facts import TokenStats, model_facts, other_facts
    from vqaudio.tokens.files import names_tokens, read_tokens

    if names_tokens(subject):
        stats = TokenStats()
        for row in read_tokens(subject):
            stats.add(row)
        tell(stats.facts())
    else:
        net = load_any(subject, "cpu")
        tell(model_facts(net) if isinstance(net, SpeechVQVAE) else other_facts(net))
    return 0


def bench(
    threads: Threads = None,
    quick: bool = False,
    out: Annotated[Path | None, arg(metavar="NAME.json", help="file for the same figures")] = None,
    overwrite: Overwrite = False,
) -> int:
    """How fast this machine decodes, beside other ways to do it and beside what it could do; it should be idle.

    Args:
        quick: the preset base alone, in half a minute instead of four
    """
    from vqaudio.evaluation import speed, speed_table

    plan, say = speed.QUICK if quick else speed.FULL, functools.partial(print, flush=True)
    speed_table.bench(plan, threads, say, out=out, overwrite=overwrite)
    return 0
