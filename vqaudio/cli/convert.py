"""vqaudio convert: voice conversion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import (
    Batch,
    ChosenVocoder,
    Device,
    Inputs,
    Model,
    Overwrite,
    Resume,
    Sampling,
    check_resume,
    decode_to_files,
    failures_named,
    load,
)
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.vocoders import PitchSource

if TYPE_CHECKING:
    from vqaudio.data.audio import AudioError
    from vqaudio.data.audio_folders import Source
    from vqaudio.nn.pitch import Pitch
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.tokens.rows import TokenRow


def convert(
    inputs: Positional[Inputs],
    out: Path,
    speaker: Annotated[
        tuple[str, ...], arg(metavar="S [S ...]", help="target speakers; all: every speaker of the model")
    ],
    model: Model = "mini",
    vocoder: ChosenVocoder = None,
    pitch: Annotated[
        PitchSource,
        arg(
            help="source: the pitch of the input, moved to median and range of the target speaker; codes: as the codes "
            "predict it. For vocoders that are conditioned on pitch"
        ),
    ] = "source",
    sampling: Sampling = SamplingConfig(),
    batch_size: Batch = 16,
    device: Device = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> int:
    """Convert speech to other speakers.

    Args:
        out: NAME.wav or NAME.flac for one input and one speaker; otherwise a folder, in which each input becomes
            ID.wav, or ID-SPEAKER.wav with several speakers
    """
    from vqaudio.tokens.bulk import find_sources, tokenize_all, usable
    from vqaudio.tokens.decoding import DecodeJob, name_outputs

    check_resume(resume, overwrite)
    net = load(model, device, sampling.threads)
    vocoder = net.check_vocoder(vocoder)
    sources = find_sources(inputs, speaker_level=None)
    speakers = net.speakers if speaker == ("all",) else tuple(dict.fromkeys(speaker))
    if not speakers:
        raise ValueError("name at least one speaker (vqaudio info MODEL lists them)")
    for name in speakers:
        net.speaker_id(name)
    with failures_named() as failures:
        outputs = name_outputs(sources, speakers, out, failures, overwrite=overwrite or resume)
        storable = [source for source in sources if (source.id, speakers[0]) in outputs]
        if pitch == "source" and vocoder in net.vocoders_with_pitch:
            read = usable(_rows_with_pitch(net, storable), len(storable), failures)
        else:
            read = ((row, None) for row in tokenize_all(net, storable, failures))
        jobs = (DecodeJob(outputs[row.id, name], row.tokens, name, own) for row, own in read for name in speakers)
        decode_to_files(
            net, jobs, len(outputs), sampling, vocoder, batch_size=batch_size, overwrite=overwrite, resume=resume
        )
    return 1 if failures else 0


def _rows_with_pitch(net: SpeechVQVAE, sources: Sequence[Source]) -> Iterator[tuple[TokenRow, Pitch] | AudioError]:
    """Codes and pitch of each source, or the error if its file cannot be used; it is read once: it may be a stream."""
    import torch

    from vqaudio.speech.tokenizer import audio_pieces
    from vqaudio.tokens.bulk import attempted
    from vqaudio.tokens.rows import TokenRow

    fingerprint = net.fingerprint
    for source in sources:

        def read(source: Source = source) -> tuple[TokenRow, Pitch]:
            wav = torch.cat(list(audio_pieces(source.path, None, net.sample_rate)))
            tokens = net.tokenize(wav, fingerprint=fingerprint)
            return TokenRow(source.id, source.speaker, tokens), net.pitch_of(wav)

        yield attempted(source, read)
