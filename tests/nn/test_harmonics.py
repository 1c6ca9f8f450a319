"""Spectra get the harmonics of the pitch beside them, as deep as speech has them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vqaudio.nn.acoustic import AcousticFrames
from vqaudio.nn.harmonics import MIN_FRAMES, STEPS, Harmonics
from vqaudio.nn.log_mel import STD_DB, LogMel, LogMelConfig
from vqaudio.nn.pitch import Pitch, PitchConfig

HOP, RATE, COUNT = 160, 16000, 60
SPECTRUM, PITCH = LogMelConfig(n_mels=80), PitchConfig(win_length=1024)
LOG_MEL = LogMel(SPECTRUM, RATE).eval()
RESOLVED = 30  # bands that tell harmonics apart


def voice(hertz: float, count: int = COUNT, formant: float = 700.0) -> Tensor:
    """(1, T): equal harmonics, a resonance, and some noise."""
    t = torch.arange(count * HOP) / RATE
    frequencies = [hertz * k for k in range(1, int(7000 / hertz))]
    level = [1 / (1 + ((f - formant) / 400) ** 2) + 0.05 for f in frequencies]
    tones = sum(a * torch.cos(2 * math.pi * f * t + k) for k, (f, a) in enumerate(zip(frequencies, level, strict=True)))
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(int(hertz)))
    return (0.05 * tones + 1e-3 * noise)[None]


def frames_of(hertz: float, given: float | None = None, count: int = COUNT) -> AcousticFrames:
    """Spectra of a voice with the F0 `given` (None: its own), without the first and last frames."""
    pitch = Pitch(torch.ones(1, count), torch.full((1, count), math.log2(given or hertz)))
    return AcousticFrames(LOG_MEL.centred(voice(hertz, count), count), pitch).part(4, count - 4)


@pytest.fixture(scope="module")
def harmonics() -> Harmonics:
    """Measured on voices of many pitches."""
    made = Harmonics(SPECTRUM, PITCH, RATE)
    made.measure(frames_of(hertz) for hertz in range(80, 400, 17))
    return made


def best_pitch(harmonics: Harmonics, spectrum: Tensor) -> float:
    """The F0 in Hz whose harmonics correlate best with the fine structure of spectra (1, N, F), on average."""
    fine = (spectrum - spectrum @ harmonics.smoothing.T).mean((0, 1))[:RESOLVED]
    combs = harmonics.combs[:, :RESOLVED]
    scores = (combs @ fine) / combs.norm(dim=1)
    return 2 ** (harmonics.lowest + int(scores.argmax()) / STEPS)


def test_harmonics_are_measured(harmonics: Harmonics) -> None:
    assert harmonics.measured
    assert harmonics.correlation[4:20].min() > 0.8
    assert harmonics.correlation[-5:].max() < 0.2  # there are none above 7 kHz
    assert 1 < harmonics.depth[4:20].mean() < 1.6  # with less noise between them than NOISE
    assert harmonics.depth.min() >= 0 and harmonics.correlation.max() <= 1


@pytest.mark.parametrize(("own", "given"), [(120.0, 180.0), (220.0, 150.0), (110.0, 220.0), (200.0, 200.0)])
def test_the_spectrum_follows_the_pitch(harmonics: Harmonics, own: float, given: float) -> None:
    before, after = frames_of(own, given), harmonics(frames_of(own, given))
    assert best_pitch(harmonics, before.spectrum) == pytest.approx(own, rel=0.03)
    assert best_pitch(harmonics, after.spectrum) == pytest.approx(given, rel=0.03)
    assert torch.equal(after.pitch.octaves, before.pitch.octaves)
    # it comes closer to the same voice at that pitch, and its smoothed values stay
    errors = [(each.spectrum - frames_of(given).spectrum)[..., 3:RESOLVED].square().mean() for each in (before, after)]
    assert errors[1] < 0.6 * errors[0] + 0.02
    smooth = (after.spectrum - before.spectrum) @ harmonics.smoothing.T
    assert STD_DB * float(smooth.abs().max()) < 5  # dB


def test_the_spectra_of_speech_hardly_change(harmonics: Harmonics) -> None:
    for hertz in (100.0, 170.0, 290.0):
        frames = frames_of(hertz)
        moved = STD_DB * (harmonics(frames).spectrum - frames.spectrum)
        assert float(moved.square().mean().sqrt()) < 2.5  # dB


def test_unvoiced_frames_stay(harmonics: Harmonics) -> None:
    frames = frames_of(120, 200)
    voicing = (torch.arange(frames.spectrum.shape[1]) % 2).float()[None]
    found = harmonics(frames._replace(pitch=frames.pitch._replace(voicing=voicing)))
    voiced = voicing[0] > 0
    assert torch.equal(found.spectrum[:, ~voiced], frames.spectrum[:, ~voiced])
    assert (found.spectrum[:, voiced] != frames.spectrum[:, voiced]).any(2).all()


def test_f0_above_the_range_of_the_tracker(harmonics: Harmonics) -> None:
    """Moving the pitch of another speaker can leave it."""
    for hertz, nearest in ((500.0, 500.0), (2000.0, 840.0), (30.0, 60.0)):
        found, expected = (harmonics(frames_of(100, given)).spectrum for given in (hertz, nearest))
        torch.testing.assert_close(found, expected)
    assert best_pitch(harmonics, harmonics(frames_of(200, 500.0)).spectrum) == pytest.approx(500, rel=0.03)


def test_half_precision_gives_float32(harmonics: Harmonics) -> None:
    """The spectrum that a context network predicts in mixed precision."""
    frames = frames_of(150, 190)
    half = frames._replace(spectrum=frames.spectrum.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        found = harmonics(half)
    assert found.spectrum.dtype == torch.float32
    assert torch.equal(found.spectrum, harmonics(half._replace(spectrum=half.spectrum.float())).spectrum)


def test_without_measurements_the_frames_stay() -> None:
    made = Harmonics(SPECTRUM, PITCH, RATE)
    frames = frames_of(120, 200)
    assert not made.measured and torch.equal(made(frames).spectrum, frames.spectrum)
    made.measure([frames.part(0, MIN_FRAMES // 4), frames.part(0, MIN_FRAMES // 4)])
    assert not made.measured
    unvoiced = frames._replace(pitch=Pitch(torch.zeros(1, frames.spectrum.shape[1]), frames.pitch.octaves))
    made.measure([unvoiced] * 10)
    assert not made.measured
    assert made.state_dict().keys() == {"depth", "correlation"}


def test_only_steady_voice_is_measured(harmonics: Harmonics) -> None:
    """Frames whose F0 moves, and those beside an unvoiced one, do not count."""
    made = Harmonics(SPECTRUM, PITCH, RATE)
    for hertz in (90, 150, 240):
        frames = frames_of(hertz)
        count = frames.spectrum.shape[1]
        rising = frames.pitch.octaves + 0.03 * torch.arange(count)
        single = (torch.arange(count) % 3 > 0).float()[None]
        made.measure(
            frames._replace(pitch=pitch)
            for pitch in (frames.pitch._replace(octaves=rising), frames.pitch._replace(voicing=single))
            for _ in range(10)
        )
    made.measure([frames_of(120).part(0, end) for end in (0, 1, 2, 3)])
    assert not made.measured
