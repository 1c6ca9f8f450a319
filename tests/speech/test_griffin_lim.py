"""Griffin-Lim: what it makes has the spectrum that was asked for, at the right place and level, and the same bits."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqaudio.data.audio import read_audio
from vqaudio.nn.log_mel import FLOOR, MEAN_DB, STD_DB, LogMel, LogMelConfig
from vqaudio.speech.griffin_lim import griffin_lim, invert_mel, resample

SPEECH = Path(__file__).parents[2] / "egs/mini/wav16/flite_slt/flite_slt_012.flac"
LOG_MEL = LogMel(LogMelConfig(n_mels=80))  # hop 160, window 400
SMALL = LogMel(LogMelConfig(n_mels=10, hop_length=40, win_length=100))


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # librosa warns of signals that are shorter than its window
        yield


def _spectrum(wav: Tensor, log_mel: LogMel = LOG_MEL) -> Tensor:
    """(T,) -> (N, F)."""
    return log_mel.centred(wav[None], -(-len(wav) // log_mel.cfg.hop_length))[0]


def _decibels(wav: Tensor) -> float:
    return float(10 * wav.square().mean().log10())


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return torch.from_numpy(read_audio(SPEECH, 16000))


def test_speech_has_its_spectrum_and_level_again(speech: Tensor) -> None:
    spectrum = _spectrum(speech)
    wav = griffin_lim(LOG_MEL, spectrum, len(speech))
    assert wav.shape == speech.shape and wav.dtype == torch.float32
    loud = spectrum * STD_DB + MEAN_DB > -90
    errors = {shift: ((_spectrum(wav.roll(shift)) - spectrum) * STD_DB)[loud] for shift in (-40, 0, 40)}
    early, now, late = (error.square().mean().sqrt() for error in errors.values())
    assert now < 2.4 and now < min(early, late) - 0.05  # dB; a quarter of a frame too early or late is noticed
    assert abs(errors[0].mean()) < 0.6
    assert abs(_decibels(wav) - _decibels(speech)) < 0.6


@pytest.mark.parametrize("start", [800, 3000, 3080, 5555])
@pytest.mark.parametrize("log_mel", [LOG_MEL, SMALL], ids=["160", "40"])
def test_a_burst_stays_where_it_is(log_mel: LogMel, start: int) -> None:
    """The centre of a burst's energy, to an eighth of a hop."""
    wav = torch.zeros(8000)
    wav[start : start + 1000] = torch.randn(1000, generator=torch.Generator().manual_seed(start)) * 0.1
    time = torch.arange(8000.0)

    def centre(x: Tensor) -> float:
        return float((time * x.square()).sum() / x.square().sum())

    wavs = [griffin_lim(log_mel, _spectrum(wav, log_mel), 8000, seed) for seed in range(3)]
    offset = np.mean([centre(x) for x in wavs]) - centre(wav)
    assert abs(offset) < 20, offset


def test_long_speech_is_made_in_blocks_that_join(speech: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    spectrum, end = _spectrum(speech), 17000  # the last block is shorter than the cross-fade
    whole = griffin_lim(LOG_MEL, spectrum, end)
    monkeypatch.setattr("vqaudio.speech.griffin_lim.BLOCK", 4100)
    wav = griffin_lim(LOG_MEL, spectrum, end)
    first = griffin_lim(LOG_MEL, spectrum, 4100)
    assert torch.equal(wav[:3300], first[:3300]) and not torch.equal(wav, whole)
    joints = [slice(joint - 800, joint) for joint in range(4100, end, 4100)]
    assert abs(_decibels(torch.cat([wav[j] for j in joints])) - _decibels(torch.cat([whole[j] for j in joints]))) < 1
    error = (_spectrum(wav) - spectrum[: len(_spectrum(wav))])[spectrum[: len(_spectrum(wav))] * STD_DB + MEAN_DB > -90]
    assert (error * STD_DB).square().mean().sqrt() < 2.4


@settings(max_examples=25, deadline=None)
@given(
    frames=st.integers(1, 30),
    missing=st.integers(0, 39),
    hop=st.sampled_from([40, 64, 100]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_length_is_finite_and_exact(frames: int, missing: int, hop: int, seed: int) -> None:
    log_mel = LogMel(LogMelConfig(n_mels=10, hop_length=hop, win_length=100))
    spectrum = torch.randn(frames, 10, generator=torch.Generator().manual_seed(seed))
    wav = griffin_lim(log_mel, spectrum, max(1, frames * hop - missing), seed)
    assert wav.shape == (max(1, frames * hop - missing),) and wav.isfinite().all() and wav.abs().max() <= 1


def test_silence_is_silent_and_nothing_is_louder_than_full_scale() -> None:
    silence = _spectrum(torch.zeros(3000))
    assert griffin_lim(LOG_MEL, silence, 3000).abs().max() < 1e-5
    assert not griffin_lim(LOG_MEL, torch.full((19, 80), -1e6), 3000).any()
    wav = griffin_lim(LOG_MEL, torch.full((19, 80), 1e6), 3000)
    assert wav.isfinite().all() and wav.abs().max() == 1


def test_too_loud_a_waveform_is_scaled_and_not_clipped(speech: Tensor) -> None:
    spectrum = _spectrum(speech[4000:12000])
    quiet, loud = (griffin_lim(LOG_MEL, spectrum + gain / STD_DB, 8000) for gain in (0, 15))
    assert quiet.abs().max() < 0.6 and loud.abs().max() == 1
    torch.testing.assert_close(loud, quiet / quiet.abs().max(), rtol=0, atol=0.02)


def test_the_seed_decides_and_nothing_else(speech: Tensor) -> None:
    spectrum, threads = _spectrum(speech[:6000]), torch.get_num_threads()
    expected = griffin_lim(LOG_MEL, spectrum, 5999, seed=3)
    assert not torch.equal(griffin_lim(LOG_MEL, spectrum, 5999, seed=4), expected)
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            np.random.seed(count)
            assert torch.equal(griffin_lim(LOG_MEL, spectrum, 5999, seed=3), expected)
    finally:
        torch.set_num_threads(threads)


def test_the_mel_inversion_has_the_bands_asked_for(speech: Tensor) -> None:
    bank = LOG_MEL.banks[0].numpy()  # (K, F)
    flat = invert_mel(LOG_MEL, np.ones((2, len(bank)), np.float32) @ bank)
    assert np.allclose(flat[bank.any(1)], 1, atol=1e-5) and not flat[~bank.any(1)].any()
    decibels = _spectrum(speech).numpy() * STD_DB + MEAN_DB
    power = np.maximum(10 ** (decibels / 10) - FLOOR, 0)
    found = invert_mel(LOG_MEL, power)
    assert found.shape == (len(bank), len(power)) and found.dtype == np.float32 and found.min() >= 0
    error = 10 * np.log10(found.T @ bank + FLOOR) - decibels
    assert np.sqrt(np.mean(error[decibels > -90] ** 2)) < 0.5
    alone = np.concatenate([invert_mel(LOG_MEL, row[None]) for row in power[:20]], axis=1)
    assert np.array_equal(alone, found[:, :20])


def test_resampling_interpolates_between_the_middles_of_the_frames() -> None:
    ramp = np.arange(4, dtype=np.float32)[:, None] * 10 + 5  # its value is the sample number
    assert resample(ramp, 10, 4 * np.arange(12))[:, 0].tolist() == pytest.approx(
        [5, 5, 8, 12, 16, 20, 24, 28, 32, 35, 35, 35]
    )


def test_wrong_input_is_refused() -> None:
    for spectrum, samples in ((torch.zeros(3, 79), 100), (torch.zeros(3, 80), 481), (torch.zeros(3, 80), 0)):
        with pytest.raises(ValueError, match=r"spectrum must be \(N, 80\) with N \* 160 at least num_samples"):
            griffin_lim(LOG_MEL, spectrum, samples)
    with pytest.raises(ValueError, match="not finite"):
        griffin_lim(LOG_MEL, torch.full((3, 80), float("nan")), 100)
