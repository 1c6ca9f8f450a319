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
from vqaudio.data.audio import AudioError
from vqaudio.pipes import is_stream
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.vocoders import PitchSource

if TYPE_CHECKING:
    from torch import Tensor

    from vqaudio.data.audio import Failures
    from vqaudio.data.audio_folders import Source
    from vqaudio.speech.model import SpeechVQVAE


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
            help="source: the pitch of the input, moved to mean and range of the target speaker; codes: as the codes "
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
    from vqaudio.tokens.bulk import find_sources, tokenize_all
    from vqaudio.tokens.decoding import DecodeJob, name_outputs
    from vqaudio.tokens.rows import TokenRow

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
        with_pitch = pitch == "source" and vocoder in net.vocoders_with_pitch
        streams = _read_streams(net, storable, failures) if with_pitch else {}
        files = [source for source in storable if not (with_pitch and is_stream(source.path))]
        audio: dict[str, Path | Tensor] = {source.id: source.path for source in files} | streams

        def rows() -> Iterator[TokenRow]:
            yield from (TokenRow(id, None, net.tokenize(wav)) for id, wav in streams.items())
            if files:
                yield from tokenize_all(net, files, failures)

        def jobs() -> Iterator[DecodeJob]:
            for row in rows():
                try:
                    own = net.pitch_of(audio[row.id]) if with_pitch else None
                except AudioError as error:  # the file has changed since its codes were computed
                    failures.append(error)
                    continue
                for name in speakers:
                    yield DecodeJob(outputs[row.id, name], row.tokens, name, own)

        decode_to_files(
            net, jobs(), len(outputs), sampling, vocoder, batch_size=batch_size, overwrite=overwrite, resume=resume
        )
    return 1 if failures else 0


def _read_streams(net: SpeechVQVAE, sources: Sequence[Source], failures: Failures) -> dict[str, Tensor]:
    """The waveforms (T,) of pipes and standard input, which codes and pitch are both made from, by id."""
    import torch

    from vqaudio.speech.tokenizer import audio_pieces

    wavs: dict[str, Tensor] = {}
    for source in sources:
        if is_stream(source.path):
            try:
                wavs[source.id] = torch.cat(list(audio_pieces(source.path, None, net.sample_rate)))
            except AudioError as error:
                failures.append(error)
    return wavs
