"""The pitch tracker finds the pitch of signals whose pitch is known, from a fixed window around each frame."""

from __future__ import annotations

import math

import pytest
import torch

from vqaudio.nn.pitch import (
    MEAN_OCTAVES,
    Pitch,
    PitchConfig,
    PitchHead,
    PitchTracker,
    centre_and_spread,
    forward_filled,
    transformed,
)

RATE, HOP = 16000, 160
TRACKER = PitchTracker(PitchConfig(win_length=1024), HOP, RATE)


def tone(hertz: float, seconds: float = 0.5, level: float = 0.1) -> torch.Tensor:
    """(T,) ten harmonics, each weaker than the one before."""
    t = torch.arange(round(seconds * RATE)) / RATE
    return level * torch.stack([torch.sin(2 * math.pi * hertz * k * t + k) / k for k in range(1, 11)]).sum(0)


@pytest.mark.parametrize("hertz", [70.0, 101.0, 155.5, 233.3, 340.0, 400.0])
@pytest.mark.parametrize("level", [0.003, 0.3])
def test_the_pitch_of_harmonic_tones(hertz, level) -> None:
    pitch = TRACKER(tone(hertz, level=level)[None], 50)
    inner = slice(4, 46)
    assert pitch.voicing[0, inner].all()
    torch.testing.assert_close(2 ** pitch.octaves[0, inner], torch.full((42,), hertz), rtol=0.003, atol=0)


def test_noise_and_silence_are_unvoiced() -> None:
    noise = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    assert TRACKER(noise, 100).voicing.mean() < 0.03
    assert not TRACKER(torch.zeros(1, RATE), 100).voicing.any()


def test_a_frame_depends_on_its_window_alone() -> None:
    wav = torch.cat([tone(120), tone(200)])
    whole = TRACKER(wav[None], 100)
    changed = wav.clone()
    changed[80 * HOP :] = 0
    reach = (1024 + HOP) // 2 // HOP + 1
    part = TRACKER(changed[None], 100)
    assert torch.equal(part.octaves[:, : 80 - reach], whole.octaves[:, : 80 - reach])
    batch = TRACKER(torch.stack([wav, tone(90, 1.0)]), 100)
    assert torch.equal(batch.octaves[:1], whole.octaves) and torch.equal(batch.voicing[:1], whole.voicing)
    blocks = TRACKER(wav.repeat(30)[None], 3000)  # more than are analysed at once
    assert torch.equal(blocks.octaves[:, 10:90], whole.octaves[:, 10:90])


def test_unvoiced_frames_hold_the_last_pitch() -> None:
    voicing = torch.tensor([[0.0, 1, 0, 0, 1, 0]])
    octaves = torch.tensor([[9.0, 7, 9, 9, 8, 9]])
    assert forward_filled(voicing, octaves).tolist() == [[pytest.approx(MEAN_OCTAVES), 7, 7, 7, 8, 8]]
    assert Pitch(voicing, octaves).frames(8).voicing.tolist() == [[0, 1, 0, 0, 1, 0, 0, 0]]
    assert Pitch(voicing, octaves).frames(2).octaves.tolist() == [[9, 7]]


def test_pitch_is_moved_to_centre_and_spread() -> None:
    octaves = 7 + 0.1 * torch.randn(1, 200, generator=torch.Generator().manual_seed(0))
    octaves[0, :3] += 1  # wrong octaves hardly matter
    voicing = (torch.arange(200) % 3 > 0).float()[None]

    def found(spread: float) -> tuple[float, float]:
        pitch = transformed(Pitch(voicing, octaves), torch.tensor(8.0), torch.tensor(spread))
        centre, own = centre_and_spread(pitch.octaves[voicing > 0])
        return float(centre), float(own)

    assert found(0.15) == pytest.approx((8, 0.15), abs=1e-5)
    of_source = float(centre_and_spread(octaves[voicing > 0])[1])
    assert of_source == pytest.approx(0.1, rel=0.2)
    assert found(5.0) == pytest.approx((8, 2 * of_source), rel=1e-4)
    few = Pitch(torch.ones(1, 3), torch.tensor([[7.0, 7.5, 8.0]]))
    assert transformed(few, torch.tensor(7.0), torch.tensor(0.1)).octaves.tolist() == [[6.5, 7.0, 7.5]]
    silent = Pitch.unvoiced(5)
    assert torch.equal(transformed(silent, torch.tensor(8.0), torch.tensor(0.1)).octaves, silent.octaves)


def test_the_head_predicts_relative_to_the_speaker() -> None:
    head = PitchHead(PitchConfig(win_length=1024), 6, 320, 160, 2, RATE)
    head.measure(1, [tone(hertz, 1.0) for hertz in (180, 200, 220)])
    assert float(head.centre[1]) == pytest.approx(math.log2(200), abs=0.02)
    assert float(head.spread[1]) == pytest.approx(math.log2(220 / 180) / 2, abs=0.02) and float(head.spread[0]) == 0
    cond = torch.randn(2, 6, 7)
    logits, octaves = head(cond, torch.tensor([0, 1]))
    assert logits.shape == octaves.shape == (2, 14)
    other = head(cond, torch.tensor([1, 1]))[1]
    torch.testing.assert_close(other[0] - octaves[0], (head.centre[1] - head.centre[0]).expand(14))
    unknown = Pitch(torch.ones(1, 20), torch.full((1, 20), 7.0))
    assert head.transformed(unknown, torch.tensor([0])) is unknown  # a speaker whose pitch is not known
    assert float(head.transformed(unknown, torch.tensor([1])).octaves.mean()) == pytest.approx(float(head.centre[1]))


def test_losses_ignore_padding() -> None:
    head = PitchHead(PitchConfig(win_length=1024), 6, 320, 160, 0, RATE)
    wav, cond = torch.stack([tone(150, 0.4), tone(90, 0.4)]), torch.randn(2, 6, 20)
    mask = torch.ones(2, 20, dtype=torch.bool)
    whole = head.losses(cond, None, wav, mask)
    mask[1, 12:] = False
    part = head.losses(cond, None, wav, mask)
    assert torch.equal(part.cross_entropy[:, :12], whole.cross_entropy[:, :12])
    assert not part.cross_entropy[1, 12:].any() and not part.num_voiced[1, 12:].any()
    assert whole.num_voiced[0, 5:15].tolist() == [2.0] * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"win_length": 500}, "two periods of f_min"),
        ({"win_length": 1024, "f_max": 5000.0}, "a quarter of the sample rate"),
        ({"win_length": 1024, "f_min": 500.0}, "below a finite f_max"),
        ({"win_length": -1}, "0 or more"),
    ],
)
def test_invalid_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        PitchTracker(PitchConfig(**options), HOP, RATE)
