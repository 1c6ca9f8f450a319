"""From the codes of an utterance to what the vocoders of a model read, piece by piece.

Shapes: N codes, R frames per code, F mel bands, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from vqaudio.nn.pitch import Pitch
from vqaudio.speech import synthesis
from vqaudio.speech.acoustic import frames_per_code
from vqaudio.speech.tokens import Tokens
from vqaudio.speech.vocoders import Vocoder
from vqaudio.torch_defaults import one_thread

if TYPE_CHECKING:
    from vqaudio.speech.model import SpeechVQVAE


PIECE = 256  # codes of an utterance that are looked up at a time, so that memory does not grow with what is in between


class Utterance(NamedTuple):
    """What is to be decoded."""

    codes: Iterable[Tensor]  # consecutive codes, (N,) int64 each
    num_samples: int | None  # None: whole codes
    speaker: Tensor | None  # (1,)
    pitch: Pitch | None  # (1, N * R), of the speaker; None: as the codes predict it


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
        if one is not None and vocoder not in model.vocoders_with_pitch:
            raise ValueError(f"the vocoder {vocoder} of this model is not conditioned on pitch; leave pitch out")
        shapes = [tuple(value.shape) for value in one or ()]
        if any(len(shape) != 2 or shape[0] != 1 or shape != shapes[0] for shape in shapes):
            raise ValueError(f"voicing and octaves of an utterance must be (1, N) both, got {shapes}")
    return pitch


def of_tokens(model: SpeechVQVAE, tokens: Tokens, speaker: Tensor | None, pitch: Pitch | None) -> Utterance:
    """Tokens, speaker (1,), pitch of the speech that they were made from."""
    return Utterance(tokens.codes.split(PIECE), tokens.num_samples, speaker, moved_pitch(model, pitch, tokens, speaker))


def contextualized(model: SpeechVQVAE, utterance: Utterance) -> Iterator[synthesis.Piece]:
    """The output of the context network; the code vectors for a model without one."""
    pieces = synthesis.pieces(model.quantizer, utterance.codes, model.hop, utterance.num_samples)
    return synthesis.contextualize(model.context, model.decoder, pieces, utterance.speaker, model.hop)


def frames(model: SpeechVQVAE, utterance: Utterance) -> Iterator[synthesis.FramePiece]:
    """Acoustic frames, with the pitch that is given or predicted."""
    assert model.spectrum is not None and model.pitch is not None
    pieces = contextualized(model, utterance)
    return synthesis.predict_frames(model.spectrum, model.pitch, pieces, utterance.speaker, utterance.pitch)


def wavenet_pieces(model: SpeechVQVAE, utterance: Utterance) -> Iterator[synthesis.Piece]:
    """What the WaveNet is conditioned on."""
    if model.acoustic is None:
        return contextualized(model, utterance)
    return synthesis.encode_frames(model.acoustic, frames(model, utterance), model.cfg.spectrum.hop_length)


def istft_stream(model: SpeechVQVAE, utterance: Utterance, seed: int) -> Iterator[Tensor]:
    """The waveform by the vocoder istft, (T,) float32 in [-1, 1] in pieces."""
    assert model.istft is not None
    return synthesis.render_stream(model.istft, frames(model, utterance), seed)


@torch.no_grad()
def predicted_spectrum(model: SpeechVQVAE, tokens: Tokens, speaker: Tensor | None) -> Tensor:
    """Tokens, speaker (1,) -> (N * R, F)."""
    assert model.spectrum is not None
    with one_thread(), torch.autocast(model.device.type, enabled=False):
        pieces = contextualized(model, Utterance(tokens.codes.split(PIECE), None, speaker, None))
        return torch.cat([model.spectrum(piece.cond[None])[0] for piece in pieces])


def moved_pitch(model: SpeechVQVAE, pitch: Pitch | None, tokens: Tokens, speaker: Tensor | None) -> Pitch | None:
    """The pitch of an utterance, moved to `speaker` (1,), for all frames of its codes."""
    if pitch is None or model.pitch is None:
        return None
    moved = model.pitch.moved(Pitch(*(value.to(model.device) for value in pitch)), speaker)
    return moved.frames(len(tokens.codes) * frames_per_code(model))
