"""What priors make up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from vqaudio.cli.console import (
    Batch,
    Device,
    Model,
    Overwrite,
    Sampling,
    load,
    load_any,
    load_kind,
    print_facts,
    write_utterances,
)
from vqaudio.sampling.config import SamplingConfig

if TYPE_CHECKING:
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.tokens.rows import TokenRow

TOKENS = "tokens.jsonl"


def sample(
    prior: Annotated[str, arg(metavar="P", help="folder of a prior over speech codes or over codes of images")],
    out: Path,
    model: Model = "mini",
    count: int = 4,
    speaker: Annotated[
        tuple[str, ...], arg(metavar="S [S ...]", help="of speech: whose voices; all: every voice of the model")
    ] = (),
    seconds: float = 3.0,
    prompt: Annotated[Path | None, arg(metavar="FILE", help="of speech: audio that is gone on with")] = None,
    label: Annotated[
        tuple[str, ...], arg(metavar="CLASS [CLASS ...]", help="of images: which classes; without it all that it knows")
    ] = (),
    sampling: Sampling = SamplingConfig(),
    batch: Batch = 16,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> int:
    """Speech that nobody said, images that nobody took: codes drawn from a prior, decoded by their model.

    --temperature, --top-k and --top-p apply to the codes, --precision to the decoder; samples of speech are drawn at
    temperature 1.

    Args:
        out: folder; of speech for SPEAKER-NUMBER.wav and tokens.jsonl, of images for CLASS-NUMBER.png and
            codes.safetensors
        count: of each speaker or class
        seconds: of each utterance, the prompt not counted
    """
    from vqaudio.images.prior import ImagePrior
    from vqaudio.speech.prior import CodePrior
    from vqaudio.tokens.sampling import sample_ids, sample_rows

    over = load_any(prior, device, sampling.threads)
    if isinstance(over, CodePrior):
        if label:
            raise ValueError(f"--label is for images, and {prior} is a prior over speech; name a --speaker")
        net = load(model, device)
        voices = _voices(net, speaker)
        paths = _paths(sample_ids(voices, count), out, overwrite)
        before = None if prompt is None else net.tokenize(prompt)
        of_codes = replace(sampling, precision="float32")
        of_speech = replace(sampling, temperature=1.0, top_k=None, top_p=None)
        rows = sample_rows(over, net, voices, count, seconds, of_codes, prompt=before)
        return _speak(net, list(rows), paths, out, batch, of_speech, overwrite)
    if not isinstance(over, ImagePrior):
        raise ValueError(
            f"{prior} is a model of kind {type(over).__name__}, not a prior; recipes/train_prior.py trains one"
        )
    if speaker or prompt is not None:
        raise ValueError(f"--speaker and --prompt are for speech, and {prior} is a prior over images; leave them out")
    from vqaudio.images.report import sample_images
    from vqaudio.images.vqvae import ImageVQVAE

    images = load_kind(model, device, ImageVQVAE)
    paths = sample_images(over, images, out, label, count, sampling, overwrite=overwrite)
    print_facts({"written": f"{len(paths)} images and codes.safetensors, in {out}"})
    return 0


def _voices(net: SpeechVQVAE, names: tuple[str, ...]) -> tuple[str | None, ...]:
    """Whose voices are asked for. Raises ValueError for names that the model does not know."""
    voices = net.speakers if names == ("all",) else tuple(dict.fromkeys(names))
    if net.speakers and not voices:
        raise ValueError(f"name at least one --speaker of {len(net.speakers)}, or all (vqaudio info MODEL lists them)")
    for name in voices:
        net.speaker_id(name)
    return voices or (None,)


def _paths(ids: list[str], out: Path, overwrite: bool) -> dict[str, Path]:
    """The audio file of each id. Raises what writing it, or the codes, would end in."""
    from vqaudio.atomic import check_writable
    from vqaudio.tokens.decoding import name_rows

    paths = name_rows(ids, out, overwrite=overwrite)
    if out.exists():
        check_writable(out / TOKENS, overwrite=overwrite)
    return paths


def _speak(
    net: SpeechVQVAE,
    rows: list[TokenRow],
    paths: dict[str, Path],
    out: Path,
    batch: int,
    sampling: SamplingConfig,
    overwrite: bool,
) -> int:
    """Writes the codes and what they sound like."""
    from vqaudio.tokens.decoding import DecodeJob, decode_jobs
    from vqaudio.tokens.files import write_tokens

    out.mkdir(parents=True, exist_ok=True)
    write_tokens(out / TOKENS, rows, overwrite=overwrite)
    lines = (DecodeJob(paths[row.id], row.tokens, row.speaker) for row in rows)
    write_utterances(decode_jobs(net, lines, sampling, batch=batch), len(rows), net, sampling, overwrite)
    return 0
