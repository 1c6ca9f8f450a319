"""From the tokens of an utterance to the conditioning of the vocoders of a model, piece by piece, and to its waveform.

Shapes: N codes, R frames per code, F mel bands, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from vqaudio.nn.pitch import Pitch
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech import synthesis
from vqaudio.speech.acoustic import frames_per_code
from vqaudio.speech.griffin_lim import griffin_lim
from vqaudio.speech.tokens import Tokens
from vqaudio.speech.vocoders import Vocoder
from vqaudio.torch_defaults import one_thread

if TYPE_CHECKING:
    from vqaudio.speech.model import SpeechVQVAE


CODES_PER_PIECE = 256  # looked up at a time: bounds the memory of what is computed from them


class DecodeRequest(NamedTuple):
    """What is to be decoded."""

    codes: Iterable[Tensor]  # consecutive codes, (N,) int64 each
    num_samples: int | None  # None: whole codes
    speaker: Tensor | None  # (1,)
    pitch: Pitch | None  # (1, N * R), of the speaker; None: as the codes predict it


def checked_sources(sources: Sequence[str | None] | None, count: int) -> Sequence[str | None]:
    """The speaker of the speech of each of `count` utterances. Raises ValueError for another number."""
    if sources is None:
        return [None] * count
    if isinstance(sources, str) or len(sources) != count:
        raise ValueError(f"source_speaker must be a list of {count}, a name or None for each utterance, got {sources}")
    return sources


def checked_pitch(
    model: SpeechVQVAE, pitch: Sequence[Pitch | None] | None, count: int, vocoder: Vocoder
) -> Sequence[Pitch | None]:
    """The pitch of each of `count` utterances. Raises ValueError for another number, and where it has no effect."""
    if pitch is None:
        return [None] * count
    if isinstance(pitch, Pitch) or len(pitch) != count:
        got = "one Pitch" if isinstance(pitch, Pitch) else str(len(pitch))
        raise ValueError(f"pitch must be a list of {count}, a Pitch or None for each utterance, got {got}")
    for one in pitch:
        if one is not None:
            check_conditioned(model, vocoder)
        shapes = [tuple(value.shape) for value in one or ()]
        if any(len(shape) != 2 or shape[0] != 1 or shape != shapes[0] for shape in shapes):
            raise ValueError(f"voicing and octaves of an utterance must be (1, N) both, got {shapes}")
    return pitch


def check_conditioned(model: SpeechVQVAE, vocoder: Vocoder) -> None:
    """Raises ValueError for a vocoder that is not conditioned on pitch."""
    if vocoder not in model.vocoders_with_pitch:
        raise ValueError(f"the vocoder {vocoder} of this model is not conditioned on pitch; leave pitch out")


def decode_request(
    model: SpeechVQVAE,
    tokens: Tokens,
    speaker: Tensor | None,
    pitch: Pitch | None = None,
    source: str | None = None,
    *,
    vocoder: Vocoder,
    piece: int = CODES_PER_PIECE,
) -> DecodeRequest:
    """What `vocoder` is to decode, `piece` codes at a time, as `speaker` (1,).

    pitch: of the speech that the tokens were made from; None: decoded from their pitch tokens. source: its speaker,
    if known.
    """
    if pitch is None and tokens.pitch is not None and vocoder in model.vocoders_with_pitch:
        assert model.pitch_quantizer is not None
        pitch = model.pitch_quantizer.decode(tokens.pitch.codes[None])
    pitch = transformed_pitch(model, pitch, tokens, speaker, source)
    return DecodeRequest(tokens.codes.split(piece), tokens.num_samples, speaker, pitch)


def decode(
    model: SpeechVQVAE, batch: Sequence[DecodeRequest], vocoder: Vocoder, sampling: SamplingConfig
) -> list[Tensor]:
    """Utterances of known length -> waveforms (T,) float32 in [-1, 1]."""
    if not batch:
        return []
    lengths = [one.num_samples or 0 for one in batch]
    if vocoder == "griffin-lim":
        assert model.spectrum is not None
        log_mel, spectra = model.spectrum.log_mel, [predicted_spectrum(model, one) for one in batch]
        return [griffin_lim(log_mel, *pair, sampling.seed) for pair in zip(spectra, lengths, strict=True)]
    if vocoder == "istft":
        return [torch.cat(list(decode_stream(model, one, vocoder, sampling))) for one in batch]
    arrived = [list(wavenet_pieces(model, one)) for one in batch]
    rows = [torch.cat([piece.cond for piece in pieces], dim=1) for pieces in arrived]
    cond = nn.utils.rnn.pad_sequence([row.T for row in rows], batch_first=True).mT  # (B, C, N)
    speakers = [one.speaker for one in batch if one.speaker is not None]
    speaker = torch.cat(speakers) if speakers else None
    wavs = synthesis.synthesize(model.decoder, cond, speaker, lengths, sampling)
    if model.correction is None:
        return wavs
    spectra = [torch.cat([piece.spectra for piece in pieces if piece.spectra is not None], dim=1) for pieces in arrived]
    made = map(synthesis.Generated, wavs, spectra)
    return [torch.cat(list(synthesis.correct(model.correction, [one]))) for one in made]


def decode_stream(
    model: SpeechVQVAE, utterance: DecodeRequest, vocoder: Vocoder, sampling: SamplingConfig
) -> Iterator[Tensor]:
    """The waveform of an utterance in pieces (T,), by the vocoder istft or the WaveNet."""
    if vocoder == "istft":
        assert model.istft is not None
        return synthesis.render_stream(model.istft, frames(model, utterance), sampling.seed)
    pieces = wavenet_pieces(model, utterance)
    generated = synthesis.synthesize_stream(model.decoder, pieces, utterance.speaker, sampling)
    if model.correction is None:
        return (piece.wav for piece in generated)
    return synthesis.correct(model.correction, generated)


def contextualized(model: SpeechVQVAE, utterance: DecodeRequest) -> Iterator[synthesis.Piece]:
    """The output of the context network; the code vectors for a model without one."""
    pieces = synthesis.pieces(model.quantizer, utterance.codes, model.hop, utterance.num_samples)
    return synthesis.contextualize(model.context, model.decoder, pieces, utterance.speaker, model.hop)


def frames(model: SpeechVQVAE, utterance: DecodeRequest) -> Iterator[synthesis.FramePiece]:
    """Acoustic frames, with the pitch that is given or predicted."""
    assert model.spectrum is not None and model.pitch is not None
    pieces = contextualized(model, utterance)
    return synthesis.predict_frames(model.spectrum, model.pitch, pieces, utterance.speaker, utterance.pitch)


def wavenet_pieces(model: SpeechVQVAE, utterance: DecodeRequest) -> Iterator[synthesis.Piece]:
    """What the WaveNet is conditioned on."""
    if model.acoustic is None:
        return contextualized(model, utterance)
    hops = model.cfg.spectrum.hop_length, model.cfg.decoder.hop
    return synthesis.encode_frames(model.acoustic, model.harmonics, frames(model, utterance), *hops)


@torch.no_grad()
def predicted_spectrum(model: SpeechVQVAE, utterance: DecodeRequest) -> Tensor:
    """(N * R, F)."""
    assert model.spectrum is not None
    with one_thread(), torch.autocast(model.device.type, enabled=False):
        return torch.cat([model.spectrum(piece.cond[None])[0] for piece in contextualized(model, utterance)])


def transformed_pitch(
    model: SpeechVQVAE, pitch: Pitch | None, tokens: Tokens, speaker: Tensor | None, source: str | None = None
) -> Pitch | None:
    """The pitch of an utterance by `source`, for all frames of its codes; moved to `speaker` (1,) if another.

    By the linear transformation of log F0 of `vqaudio.nn.pitch.transformed`.
    """
    if pitch is None or model.pitch is None:
        return None
    pitch = Pitch(*(value.to(model.device) for value in pitch))
    if speaker is not None and (source not in model.speakers or model.speaker_id(source) != int(speaker)):
        pitch = model.pitch.transformed(pitch, speaker)
    return pitch.frames(len(tokens.codes) * frames_per_code(model))
