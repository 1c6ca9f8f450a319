"""Pitch tokens: vectors that can be checked by hand, and the same tokens however the audio is divided."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqaudio.nn.pitch import MEAN_OCTAVES, Pitch, PitchConfig, PitchTracker
from vqaudio.nn.pitch_quantizer import BLOCK_TOKENS, VOICING, PitchQuantizer, PitchQuantizerConfig

HOP, FRAMES = 160, 3
RATE = 16000


def voice(seconds: float = 3.0, seed: int = 0) -> Tensor:
    """(T,): a gliding voice, interrupted by silence and noise."""
    t = torch.arange(int(seconds * RATE)) / RATE
    phase = 2 * torch.pi * torch.cumsum(140 + 40 * torch.sin(2 * torch.pi * t), 0) / RATE
    wav = torch.stack([torch.sin(k * phase) / k for k in range(1, 6)]).sum(0) / 10
    noise = torch.rand(len(t), generator=torch.Generator().manual_seed(seed)) / 10 - 0.05
    return torch.where(t % 0.5 < 0.3, wav, torch.where(t % 1 < 0.5, noise, 0.0))


def make(**changes: int) -> PitchQuantizer:
    options = {"frames": FRAMES, "codebook_size": 32, **changes}
    tracker = PitchTracker(PitchConfig(win_length=1024), HOP, RATE)
    return PitchQuantizer(PitchQuantizerConfig(**options), tracker)


@pytest.fixture(scope="module")
def quantizer() -> PitchQuantizer:
    made = make()
    made.fit([voice()])
    return made.eval()


def test_a_vector_is_voicing_and_f0_of_its_frames() -> None:
    voicing, octaves = torch.tensor([[0.0, 1, 1, 0, 0]]), MEAN_OCTAVES + torch.tensor([[9.0, 0.2, 0.4, 9, 9]])
    vectors = make()._vectors(Pitch(voicing, octaves))
    expected = [[0, VOICING, VOICING, 0.3, 0.2, 0.4], [0.0] * 6]  # the mean of the voiced frames; nothing without voice
    assert torch.allclose(vectors[0].T, torch.tensor(expected), atol=1e-6)


def test_codes_are_those_of_the_nearest_vectors_and_are_decoded_to_them(quantizer: PitchQuantizer) -> None:
    pitch = quantizer.tracker(voice()[None], 300)
    tokens = quantizer.encode(pitch)
    assert torch.equal(tokens, torch.cdist(quantizer._vectors(pitch).mT, quantizer.quantizer.codebook).argmin(2))
    found = quantizer.decode(tokens)
    assert found.voicing.shape == found.octaves.shape == pitch.voicing.shape
    assert torch.equal(quantizer.encode(found), tokens)
    assert (found.voicing != pitch.voicing).float().mean() < 0.02
    both = (found.voicing * pitch.voicing) > 0
    assert (found.octaves - pitch.octaves)[both].square().mean().sqrt() < 0.05


def test_silence_is_a_token_of_its_own(quantizer: PitchQuantizer) -> None:
    assert not quantizer.decode(quantizer.encode(Pitch.unvoiced(9))).voicing.any()


@pytest.mark.parametrize("size", [1, 97, 1024, 40000])
@pytest.mark.parametrize("samples", [1, 480, 481, BLOCK_TOKENS * FRAMES * HOP, 48000])
def test_pieces_equal_the_whole(quantizer: PitchQuantizer, size: int, samples: int) -> None:
    wav = voice()[:samples]
    if size == 1:
        wav = wav[:700]
    whole = torch.cat(list(quantizer.encode_stream([wav])))
    assert len(whole) == -(-len(wav) // quantizer.hop)
    assert torch.equal(torch.cat(list(quantizer.encode_stream(wav.split(size)))), whole)


def test_what_follows_changes_no_token_whose_windows_it_is_not_in(quantizer: PitchQuantizer) -> None:
    whole = torch.cat(list(quantizer.encode_stream([voice()])))
    longer = torch.cat([voice(), voice(2, seed=1)])
    outside = len(voice()) - quantizer.tracker.cfg.win_length
    count = outside // quantizer.hop
    assert torch.equal(torch.cat(list(quantizer.encode_stream([longer])))[:count], whole[:count])


def test_the_fingerprint_covers_codebook_and_options(quantizer: PitchQuantizer) -> None:
    same, other = make(), make()
    same.load_state_dict(quantizer.state_dict())
    assert same.fingerprint == quantizer.fingerprint != other.fingerprint
    same.quantizer.codebook[0, 0] += 1e-3
    assert same.fingerprint != quantizer.fingerprint
    wider = PitchQuantizer(quantizer.cfg, PitchTracker(PitchConfig(win_length=1024, f_max=421), HOP, RATE))
    wider.load_state_dict(quantizer.state_dict())
    assert wider.fingerprint != quantizer.fingerprint


def test_the_codebook_does_not_depend_on_chance(quantizer: PitchQuantizer) -> None:
    torch.manual_seed(7)
    again = make()
    again.fit(iter([voice()]))
    assert again.fingerprint == quantizer.fingerprint and again.quantizer.initialised


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 50 tokens per second, got 1 frames of 160 samples, 100 per second"):
        make(frames=1)
    with pytest.raises(ValueError, match="frames must be 0 or more, got -1"):
        PitchQuantizerConfig(frames=-1)
    with pytest.raises(ValueError, match="codebook_size must lie in 2"):
        PitchQuantizerConfig(codebook_size=1)
    with pytest.raises(ValueError, match="cannot be initialised"):
        make().fit([])
