"""vqaudio sample: samples from a trained prior."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from vqaudio.cli.console import (
    Batch,
    ChosenVocoder,
    Device,
    Model,
    Overwrite,
    Sampling,
    decode_to_files,
    load,
    load_any,
    load_kind,
    print_facts,
)
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.vocoders import Vocoder

if TYPE_CHECKING:
    from vqaudio.images.prior import ImagePrior
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.speech.prior import CodePrior
    from vqaudio.tokens.rows import TokenRow
    from vqaudio.video.prior import VideoPrior

TOKENS = "tokens.jsonl"
SECONDS, BATCH_SIZE = 3.0, 16  # by default


def sample(
    prior: Annotated[str, arg(metavar="P", help="folder of a prior over speech codes or image codes")],
    out: Path,
    model: Model = "mini",
    count: int = 4,
    speaker: Annotated[
        tuple[str, ...], arg(metavar="S [S ...]", help="speech: speakers; all: every speaker of the model")
    ] = (),
    seconds: float = SECONDS,
    prompt: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help="speech: audio whose codes are continued; video: an episode, RECORDING/episodes/ID.npz",
        ),
    ] = None,
    label: Annotated[
        tuple[str, ...], arg(metavar="CLASS [CLASS ...]", help="images: classes; by default all classes of the prior")
    ] = (),
    actions: Annotated[
        str | None, arg(metavar="A*N[,A*N ...]", help="video: actions to take, such as forward*20,left*10")
    ] = None,
    first_frame: Annotated[int, arg(help="video: first frame of the prompt within its episode")] = 0,
    vocoder: ChosenVocoder = None,
    sampling: Sampling = SamplingConfig(),
    batch_size: Batch = BATCH_SIZE,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> int:
    """Sample speech, images or video from a trained prior: codes from the prior, decoded by its model.

    --temperature, --top-k and --top-p apply to the codes, --precision to the WaveNet; waveforms are sampled at
    temperature 1.

    Args:
        out: folder; speech: SPEAKER-NUMBER.wav and tokens.jsonl, images: CLASS-NUMBER.png and codes.safetensors;
            video: a .gif, beside which a strip is written as .png
        count: number of samples for each speaker or class, or, for video, of continuations, shown side by side
        seconds: duration of each utterance, without the prompt
    """
    from vqaudio.images.prior import ImagePrior
    from vqaudio.speech.prior import CodePrior
    from vqaudio.video.prior import VideoPrior

    loaded = load_any(prior, device, sampling.threads)
    if isinstance(loaded, VideoPrior | ImagePrior) and sampling.precision != "float32":
        raise ValueError(f"--precision applies to the WaveNet of speech, but {prior} is a {type(loaded).__name__}")
    if isinstance(loaded, VideoPrior):
        if speaker or label or vocoder is not None or seconds != SECONDS:
            raise ValueError(
                f"--speaker, --label, --vocoder and --seconds do not apply to video, and {prior} is a prior over video"
            )
        return _sample_video(
            loaded, model, out, actions, prompt, first_frame, count, sampling, batch_size, device, overwrite
        )
    if actions is not None or first_frame:
        raise ValueError(f"--actions and --first-frame apply to video, but {prior} is a {type(loaded).__name__}")
    if isinstance(loaded, CodePrior):
        if label:
            raise ValueError(f"--label applies to images, but {prior} is a prior over speech codes; give a --speaker")
        net = load(model, device)
        vocoder = net.check_vocoder(vocoder)
        speakers = _speakers(net, speaker)
        return _sample_speech(
            loaded,
            net,
            out,
            speakers,
            count,
            seconds,
            prompt,
            sampling,
            vocoder,
            batch_size=batch_size,
            overwrite=overwrite,
        )
    if not isinstance(loaded, ImagePrior):
        raise ValueError(
            f"{prior} is a model of kind {type(loaded).__name__}, not a prior; recipes/train_prior.py trains one"
        )
    if speaker or prompt is not None or vocoder is not None or seconds != SECONDS or batch_size != BATCH_SIZE:
        raise ValueError(
            f"--speaker, --prompt, --vocoder, --seconds and --batch-size do not apply to images, and {prior} is a "
            "prior over image codes"
        )
    return _sample_images(loaded, model, out, label, count, sampling, device, overwrite)


def _sample_speech(
    prior: CodePrior,
    net: SpeechVQVAE,
    out: Path,
    speakers: tuple[str | None, ...],
    count: int,
    seconds: float,
    prompt: Path | None,
    sampling: SamplingConfig,
    vocoder: Vocoder,
    *,
    batch_size: int,
    overwrite: bool,
) -> int:
    from vqaudio.tokens.sampling import sample_ids, sample_rows

    paths = _paths(sample_ids(speakers, count), out, overwrite)
    prompt_tokens = None if prompt is None else net.tokenize(prompt)
    of_codes = replace(sampling, precision="float32")
    of_speech = replace(sampling, temperature=1.0, top_k=None, top_p=None)
    rows = sample_rows(prior, net, speakers, count, seconds, of_codes, prompt=prompt_tokens)
    return _decode(net, list(rows), paths, out, batch_size, of_speech, vocoder, overwrite)


def _sample_images(
    prior: ImagePrior,
    model: str,
    out: Path,
    label: tuple[str, ...],
    count: int,
    sampling: SamplingConfig,
    device: Device,
    overwrite: bool,
) -> int:
    from vqaudio.images.report import sample_images
    from vqaudio.images.vqvae import ImageVQVAE

    images = load_kind(model, device, ImageVQVAE)
    paths = sample_images(prior, images, out, label, count, sampling, overwrite=overwrite)
    print_facts({"written": f"{len(paths)} images and codes.safetensors, in {out}"})
    return 0


def _sample_video(
    prior: VideoPrior,
    model: str,
    out: Path,
    actions: str | None,
    prompt: Path | None,
    first_frame: int,
    count: int,
    sampling: SamplingConfig,
    batch_size: int,
    device: Device,
    overwrite: bool,
) -> int:
    from vqaudio.images.vqvae import ImageVQVAE
    from vqaudio.video.report import sample_clip

    if actions is None or prompt is None:
        raise ValueError(
            f"a prior over video needs --prompt (an episode) and --actions, of {', '.join(prior.cfg.actions)}"
        )
    frames = load_kind(model, device, ImageVQVAE)
    paths = sample_clip(
        prior, frames, out, actions, prompt, first_frame, count, sampling, batch_size=batch_size, overwrite=overwrite
    )
    print_facts({"written": " and ".join(map(str, paths))})
    return 0


def _speakers(net: SpeechVQVAE, names: tuple[str, ...]) -> tuple[str | None, ...]:
    """The speakers to sample, (None,) for a model without speakers. Raises ValueError for unknown names."""
    speakers = net.speakers if names == ("all",) else tuple(dict.fromkeys(names))
    if net.speakers and not speakers:
        raise ValueError(f"name at least one --speaker of {len(net.speakers)}, or all (vqaudio info MODEL lists them)")
    for name in speakers:
        net.speaker_id(name)
    return speakers or (None,)


def _paths(ids: list[str], out: Path, overwrite: bool) -> dict[str, Path]:
    """The audio file of each id. Raises OSError where it, or the token file, could not be written."""
    from vqaudio.atomic import check_writable
    from vqaudio.tokens.decoding import name_rows

    paths = name_rows(ids, out, overwrite=overwrite)
    if out.exists():
        check_writable(out / TOKENS, overwrite=overwrite)
    return paths


def _decode(
    net: SpeechVQVAE,
    rows: list[TokenRow],
    paths: dict[str, Path],
    out: Path,
    batch_size: int,
    sampling: SamplingConfig,
    vocoder: Vocoder,
    overwrite: bool,
) -> int:
    """Writes the tokens and their audio."""
    from vqaudio.tokens.decoding import DecodeJob
    from vqaudio.tokens.files import write_tokens

    out.mkdir(parents=True, exist_ok=True)
    write_tokens(out / TOKENS, rows, overwrite=overwrite)
    jobs = (DecodeJob(paths[row.id], row.tokens, row.speaker) for row in rows)
    decode_to_files(net, jobs, len(rows), sampling, vocoder, batch_size=batch_size, overwrite=overwrite)
    return 0
