"""The vocoder istft: the same samples for any division of an utterance, and the pitch and spectrum that it is told."""

from __future__ import annotations

import pytest
import torch

from vqaudio.nn.acoustic import AcousticFrames
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.pitch import Pitch, PitchConfig, PitchTracker
from vqaudio.nn.source_filter import DELAY_FRAMES, IstftConfig, IstftVocoder
from vqaudio.nn.stft_loss import MultiResolutionSTFT

HOP, RATE = 160, 16000
MEL = LogMelConfig(n_mels=5)
TRACKER = PitchTracker(PitchConfig(win_length=1024), HOP, RATE)


@pytest.fixture(scope="module")
def vocoder(randomise) -> IstftVocoder:
    vocoder = IstftVocoder(IstftConfig(dilations=(1, 2), channels=8, lookahead=3, points=9), MEL, RATE)
    randomise(vocoder.net, seed=1)
    return vocoder.eval().requires_grad_(False)


def frames_of(count: int, hertz: float = 130.0) -> AcousticFrames:
    generator = torch.Generator().manual_seed(count)
    voicing = (torch.arange(count) % 23 < 16).float()[None]
    octaves = torch.log2(hertz + 20 * torch.rand(1, count, generator=generator))
    return AcousticFrames(torch.randn(1, count, 5, generator=generator), Pitch(voicing, octaves))


def spoken(vocoder: IstftVocoder, frames: AcousticFrames, cuts: list[int], seed: int = 0) -> torch.Tensor:
    generator, state, found, start = torch.Generator().manual_seed(seed), vocoder.start(), [], 0
    for size in cuts:
        wav, state = vocoder.extend(frames.part(start, start + size), state, generator)
        found.append(wav)
        start += size
    return torch.cat([*found, vocoder.finish(state, generator)])


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 50])
def test_any_division_gives_the_same_samples(vocoder, count) -> None:
    frames = frames_of(count)
    whole = spoken(vocoder, frames, [count])
    assert whole.shape == (count * HOP,) and whole.isfinite().all() and whole.any()
    assert torch.equal(spoken(vocoder, frames, [1] * count), whole)
    assert torch.equal(spoken(vocoder, frames, [count // 3, count - count // 3]), whole)
    assert not torch.equal(spoken(vocoder, frames, [count], seed=1), whole)


def test_no_frames_make_no_samples(vocoder) -> None:
    assert spoken(vocoder, frames_of(4), []).shape == (0,)


def test_later_frames_never_change_earlier_samples(vocoder) -> None:
    frames = frames_of(60)
    other = AcousticFrames(frames.spectrum.clone(), frames.pitch)
    other.spectrum[:, 40:] += 1
    before, after = spoken(vocoder, frames, [60]), spoken(vocoder, other, [60])
    lookahead = vocoder.cfg.lookahead + DELAY_FRAMES + 3  # of the correction: a window and a half
    assert torch.equal(before[: (40 - lookahead) * HOP], after[: (40 - lookahead) * HOP])
    assert not torch.equal(before, after)


def test_it_speaks_at_the_pitch_that_it_is_told(vocoder) -> None:
    """Whatever the filters are: the pitch is that of the pulses."""
    loud = IstftVocoder(vocoder.cfg, MEL, RATE).eval().requires_grad_(False)
    loud.out.bias[:9], loud.out.bias[9:] = torch.linspace(-1, -10, 9), -9.0  # soft pulses, hardly any noise
    octaves = torch.linspace(6.8, 7.8, 100)[None]
    frames = AcousticFrames(torch.zeros(1, 100, 5), Pitch(torch.ones(1, 100), octaves))
    wav = spoken(loud, frames, [100])
    found = TRACKER(wav[None], 100)
    assert found.voicing[0, 4:96].all()
    assert (found.octaves - octaves)[0, 4:96].abs().max() < 0.02
    unvoiced = AcousticFrames(frames.spectrum, Pitch(torch.zeros(1, 100), octaves))
    assert TRACKER(spoken(loud, unvoiced, [100])[None], 100).voicing.mean() < 0.1


def test_training_follows_the_spectrum() -> None:
    """On one second of vowel-like sound, the loss falls to a fraction within a few steps."""
    torch.manual_seed(0)
    t = torch.arange(RATE) / RATE
    wav = torch.stack([0.1 * torch.cos(2 * torch.pi * 150 * k * t) / k for k in range(1, 20)]).sum(0, keepdim=True)
    pitch = TRACKER(wav, 100)
    frames = AcousticFrames(torch.zeros(1, 100, 5), pitch)
    vocoder, loss_of = IstftVocoder(IstftConfig(dilations=(1,), channels=8), MEL, RATE), MultiResolutionSTFT()
    optimizer, losses = torch.optim.Adam(vocoder.parameters(), 0.03), []
    for _ in range(60):
        made = vocoder(frames)
        assert made.shape == (1, (100 - DELAY_FRAMES) * HOP)
        loss = torch.stack(loss_of(made[:, 800:-800], wav[:, 800 : made.shape[1] - 800])).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_loss_is_that_of_its_definition() -> None:
    loss_of = MultiResolutionSTFT()
    a, b = torch.randn(2, 4096), torch.randn(2, 4096)
    assert [float(x) for x in loss_of(a, a)] == [0, 0]
    convergence, distance = loss_of(2 * b, b)
    assert float(convergence) == pytest.approx(1, rel=1e-4)
    assert float(distance) == pytest.approx(0.6931, rel=0.01)  # the floor hardly matters at this level
    assert float(loss_of(torch.zeros_like(b), b)[0]) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"), [({"dilations": (1,), "lookahead": 0}, "at least 1 frame"), ({"points": 1}, "at least 2")]
)
def test_invalid_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        IstftConfig(**options)
