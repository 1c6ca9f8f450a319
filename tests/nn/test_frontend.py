"""The log-mel front-end: equal to librosa, chunked equals whole, and an encoder with it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vqaudio.nn.encoder import Encoder, EncoderConfig
from vqaudio.nn.log_mel import MEAN_DB, STD_DB, LogMel, LogMelConfig
from vqaudio.nn.mel import NUM_WARPS

CFG = LogMelConfig(n_mels=20, hop_length=40, win_length=100)
ENCODER = EncoderConfig(strides=(2,), channels=(8,), dilations=(1, 2), dim=4, lookahead=70, frontend=CFG)


def _noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, samples, 1, generator=torch.Generator().manual_seed(seed)) * 0.4 - 0.2


def test_log_power_equals_that_of_librosa() -> None:
    import librosa

    front, wav = LogMel(CFG).eval(), _noise(400)
    found = front(wav)[0][0].numpy()
    padded = np.pad(wav[0, :, 0].numpy(), (front.past_length, 0))
    frames = librosa.util.frame(padded, frame_length=100, hop_length=40, axis=0) * np.hanning(101)[:-1]
    power = np.abs(np.fft.rfft(frames, front.size)) ** 2
    bank = librosa.filters.mel(sr=16000, n_fft=front.size, n_mels=20, fmin=40, fmax=7600, htk=True, norm=None)
    mel = power @ (bank / bank.sum(1, keepdims=True)).T / 50**2
    np.testing.assert_allclose(found, (10 * np.log10(mel + 1e-10) - MEAN_DB) / STD_DB, atol=1e-3)


def test_louder_by_so_many_decibels_is_higher_by_as_many() -> None:
    front, wav = LogMel(CFG).eval(), _noise(400)
    quiet = wav * 10 ** (-6 / 20)
    torch.testing.assert_close(front(wav)[0] - front(quiet)[0], torch.full((1, 10, 20), 6 / STD_DB), atol=1e-3, rtol=0)


def test_chunks_equal_the_whole() -> None:
    front, wav = LogMel(CFG).eval(), _noise(400)
    whole, past, found = front(wav)[0], None, []
    for chunk in wav.split([40, 200, 160], dim=1):
        frames, past = front(chunk, past)
        found.append(frames)
    torch.testing.assert_close(torch.cat(found, 1), whole)


def test_windows_lie_around_the_middles_of_frames() -> None:
    """A click has the most power in the frame whose centre it is at; an odd sample of padding is at the start."""
    front = LogMel(CFG).eval()
    for frame in range(10):
        power = []
        for off in range(-3, 4):
            wav = torch.zeros(1, 400)
            wav[0, frame * 40 + 20 + off] = 0.5
            features = front.centred(wav, 10)[0].mean(1)  # (N,)
            assert features.argmax() == frame
            power.append(features[frame].item())
        assert power == sorted(power[:4]) + sorted(power[4:], reverse=True)
        assert power[0] == pytest.approx(power[6], abs=1e-3)
    short = _noise(15)[..., 0]  # shorter than what a window looks ahead
    assert torch.equal(front.centred(short, 1), front.centred(torch.nn.functional.pad(short, (0, 85)), 1))


def test_the_unwarped_filterbank_occurs_once() -> None:
    banks = LogMel(LogMelConfig(n_mels=20, hop_length=40, win_length=100, f_max=6600, warp=0.2)).banks
    assert len(banks) == NUM_WARPS
    assert [torch.equal(banks[0], bank) for bank in banks[1:]] == [False] * (NUM_WARPS - 1)
    assert torch.equal(banks[0], LogMel(LogMelConfig(n_mels=20, hop_length=40, win_length=100, f_max=6600)).banks[0])


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_warped_filterbank_scales_the_frequency_of_a_tone(factor: float) -> None:
    front = LogMel(LogMelConfig(n_mels=40, win_length=400, f_max=6600, warp=0.2))
    time = torch.arange(1600) / 16000
    tone, stretched = (torch.sin(2 * math.pi * 1000 * f * time)[None, :, None] * 0.1 for f in (1.0, factor))
    warped = front.banks[1] if factor == 0.8 else front.banks[-1]
    features = front.eval()(tone)[0][0, 5]
    front.banks = warped[None]
    assert front(stretched)[0][0, 5].argmax() == features.argmax()


def test_frequencies_are_warped_in_training_only() -> None:
    front, wav = LogMel(LogMelConfig(n_mels=20, win_length=400, f_max=6600, warp=0.2)), _noise(1600)
    trained = torch.stack([front.train()(wav)[0] for _ in range(8)])
    assert (trained != trained[0]).any()
    front.eval()
    assert torch.equal(front(wav)[0], front(wav)[0])


def test_a_random_equalizer_changes_the_bands_of_each_crop_alike_at_all_times() -> None:
    cfg = LogMelConfig(n_mels=40, win_length=400)
    front = LogMel(replace(cfg, equalizer_db=4.0))
    with pytest.raises(ValueError, match=r"equalizer_db must lie in 0 to 30 dB, got -1"):
        replace(cfg, equalizer_db=-1.0)
    wav = _noise(1600).repeat(500, 1, 1)
    torch.manual_seed(0)
    plain = LogMel(cfg)(wav)[0]
    curves = 20 * (front.train()(wav)[0] - plain)  # dB, (B, N, F)
    assert (curves - curves[:, :1]).abs().max() < 0.01  # constant in a crop
    curve = curves[:, 0]
    assert curve.mean(1).abs().max() < 0.01  # the level is left alone
    assert curve.square().mean().sqrt() == pytest.approx(4.0, rel=0.1)
    assert curve.diff(dim=1).square().mean().sqrt() < 1.0  # smooth over the bands
    assert (curve[0] - curve[1]).abs().max() > 1  # each crop has its own
    assert torch.equal(front.eval()(wav)[0], plain)  # of one size: on two threads, 500 rows round otherwise than one


def test_an_encoder_with_front_end_streams_the_same_frames(randomise) -> None:
    encoder, wav = randomise(Encoder(ENCODER)).eval(), _noise(1003).mT
    whole, state, found = encoder(wav)[0], encoder.start(), []
    assert whole.shape[2] == math.ceil(1003 / 80)
    for chunk in wav.split([1, 300, 7, 695], dim=2):
        z, state = encoder(chunk, state)
        found.append(z)
    found.append(encoder.finish(state)[0])
    torch.testing.assert_close(torch.cat(found, 2), whole, atol=1e-4, rtol=1e-4)


def test_a_frame_depends_on_exactly_its_receptive_field(randomise) -> None:
    encoder = randomise(Encoder(ENCODER)).eval()
    wav, n = _noise(3000).mT.requires_grad_(), 20
    encoder(wav)[0][0, :, n].sum().backward()
    assert wav.grad is not None
    used = wav.grad[0, 0].nonzero()[:, 0]
    end = (n + 1) * ENCODER.hop + ENCODER.lookahead
    # the first sample of a Hann window has weight 0
    assert (used.min().item(), used.max().item() + 1) == (end - ENCODER.receptive_field + 1, end)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_mels": -1}, "n_mels"),
        ({"n_mels": 20, "win_length": 10}, "win_length must be at least hop_length"),
        ({"n_mels": 20, "f_min": 9000.0}, "below f_max"),
        ({"n_mels": 20, "warp": 0.5}, r"\[0, 0.5\)"),
    ],
)
def test_bad_values_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        LogMelConfig(**options)


@pytest.mark.parametrize("options", [{"n_mels": 20, "warp": 0.2}, {"n_mels": 0}])
def test_invalid_filterbanks_are_refused(options) -> None:
    with pytest.raises(ValueError, match=r"f_max|needs bands"):
        LogMel(LogMelConfig(**options))
