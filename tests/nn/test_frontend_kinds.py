"""Front-ends with running averages: equal to a plain loop, streamed = whole, level-free, causal, crops = utterances."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vqaudio.nn.encoder import Encoder, EncoderConfig
from vqaudio.nn.frontend import FrontendConfig, build_frontend
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.log_mel_cmn import LOWEST_PEAK, SILENCE, LogMelCMN, LogMelCMNConfig
from vqaudio.nn.mel import BLOCK_FRAMES, LeakySum, leaky_peak
from vqaudio.nn.pcen import PCEN, PCENConfig
from vqaudio.speech.tokenizer import CHUNK_FRAMES, encode_in_chunks

MEL: dict[str, Any] = {"n_mels": 20, "hop_length": 40, "win_length": 100}
CMN, PER_CHANNEL = LogMelCMNConfig(**MEL, time_constant=0.2, prior_seconds=0.1), PCENConfig(**MEL, time_constant=0.05)
ADAPTIVE: list[FrontendConfig] = [CMN, PER_CHANNEL]
ALL: list[FrontendConfig] = [LogMelConfig(**MEL), *ADAPTIVE]
KINDS = pytest.mark.parametrize("cfg", ALL, ids=lambda cfg: cfg.kind)
ADAPTIVE_KINDS = pytest.mark.parametrize("cfg", ADAPTIVE, ids=lambda cfg: cfg.kind)


def _speech(samples: int, seed: int = 0) -> Tensor:
    """(samples,): noise that is coloured, and whose level changes by 40 dB."""
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    loudness = 10 ** (torch.arange(samples) / 700).sin()
    return 0.02 * loudness * (noise + noise.roll(1))


def _encoder(cfg: FrontendConfig, randomise) -> Encoder:
    made = EncoderConfig(strides=(2,), channels=(8,), dilations=(1, 2), dim=4, lookahead=70, frontend=cfg)
    return randomise(Encoder(made)).eval()


# --- the running averages ---


def test_sums_and_peaks_are_those_of_a_loop() -> None:
    x, level = torch.randn(2, 3 * BLOCK_FRAMES + 5, 4), 30 * torch.randn(2, 3 * BLOCK_FRAMES + 5)
    total, peak = torch.randn(2, 4), torch.tensor([-60.0, 90.0])
    sums, peaks = LeakySum(0.9)(x, total), leaky_peak(level, peak, 0.5)
    for n in range(x.shape[1]):
        total, peak = 0.9 * total + x[:, n], torch.maximum(level[:, n], peak - 0.5)
        torch.testing.assert_close(sums[:, n], total, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(peaks[:, n], peak, atol=1e-4, rtol=0)


def test_log_mel_cmn_is_that_of_a_loop_over_frames() -> None:
    front, wav = LogMelCMN(CMN), _speech(8000)[None, :, None]
    front.prior.uniform_(-40, -20)
    front.mean.uniform_(-5, 5)
    front.std.uniform_(5, 10)
    power = front.power(wav)[0][0].double().numpy() + SILENCE
    rate = 16000 / 40
    peak, weight, total, expected = LOWEST_PEAK, 0.0, np.zeros(20), []
    for frame in power:
        level = 10 * np.log10(frame.mean())
        peak = max(level, peak - 3 / rate)
        below = 10 * np.log10(frame / 10 ** (peak / 10) + 1e-6)
        speech = min(1, max(0, 1 + (level - peak) / 30))
        keep = np.exp(-1 / (0.2 * rate))
        weight, total = keep * weight + speech, keep * total + speech * below
        mean = (total + 0.1 * rate * front.prior.numpy()) / (weight + 0.1 * rate)
        expected.append((below - mean - front.mean.numpy()) / front.std.numpy())
    np.testing.assert_allclose(front(wav)[0][0], np.array(expected), atol=2e-4)


def test_pcen_is_that_of_the_paper() -> None:
    front, wav = PCEN(PER_CHANNEL), _speech(8000)[None, :, None]
    energy = front.power(wav)[0][0].double().numpy()
    frames = 0.05 * 16000 / 40
    s = (np.sqrt(1 + 4 * frames**2) - 1) / (2 * frames**2)  # librosa's coefficient of a time constant
    smooth, weight, expected = np.zeros(20), 0.0, []
    for frame in energy:
        smooth, weight = (1 - s) * smooth + s * frame, (1 - s) * weight + s
        expected.append((frame / (1e-9 + smooth / weight) ** 0.98 + 2) ** 0.5 - 2**0.5)
    np.testing.assert_allclose(front(wav)[0][0], (np.array(expected) - 0.3) / 0.3, atol=2e-4)


# --- the same frames however they are computed ---


@KINDS
def test_chunks_equal_the_whole(cfg: FrontendConfig) -> None:
    front, wav = build_frontend(cfg, 16000), torch.stack([_speech(8000), _speech(8000, 1)])[..., None]
    whole, state, found = front(wav)[0], front.start(2), []
    for chunk in wav.split([40, 200, 5960, 1800], dim=1):
        frames, state = front(chunk, state)
        found.append(frames)
    torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-4, rtol=1e-4)


@KINDS
def test_streamed_is_whole_to_the_bit(cfg: FrontendConfig, randomise) -> None:
    encoder = _encoder(cfg, randomise)
    wav = _speech(CHUNK_FRAMES * 80 * 2 + 777)
    with torch.inference_mode():
        whole = torch.cat(list(encode_in_chunks(encoder, [wav])), 2)
        for cuts in ([1, 6999, len(wav) - 7000], [3000] * (len(wav) // 3000) + [len(wav) % 3000]):
            streamed = torch.cat(list(encode_in_chunks(encoder, wav.split(cuts))), 2)
            assert torch.equal(streamed, whole)
        torch.testing.assert_close(encoder(wav[None, None])[0], whole, atol=1e-3, rtol=1e-3)


@KINDS
def test_later_samples_never_change_an_earlier_frame(cfg: FrontendConfig, randomise) -> None:
    encoder, wav = _encoder(cfg, randomise), _speech(CHUNK_FRAMES * 80 + 7000)
    with torch.inference_mode():
        whole = torch.cat(list(encode_in_chunks(encoder, [wav])), 2)
        for cut in (70 + 80 * 20, 70 + 80 * (CHUNK_FRAMES + 30)):
            shorter = torch.cat(list(encode_in_chunks(encoder, [wav[:cut]])), 2)
            num_exact = (cut - 70) // 80  # frames whose look-ahead ends before the cut
            assert torch.equal(shorter[:, :, :num_exact], whole[:, :, :num_exact])


@KINDS
@pytest.mark.parametrize("start", [0, 80, 70 * 80, 150 * 80])
def test_a_crop_has_the_frames_of_its_utterance(cfg: FrontendConfig, start: int, randomise) -> None:
    """Before, at and after the point where the past of a crop reaches the start of the utterance."""
    encoder, wav, samples, past, future = _encoder(cfg, randomise), _speech(16000), 1600, 160 * 80, 70
    whole = encoder(wav[None, None])[0][:, :, start // 80 : (start + samples) // 80]
    padded = torch.nn.functional.pad(wav, (past, future))
    before, crop, after = padded[start : start + past + samples + future].split([past, samples, future])
    lengths = torch.tensor([min(past, start)])
    found = encoder.crop(crop[None, None], before[None, None], lengths, after[None, None])
    torch.testing.assert_close(found, whole, atol=2e-4, rtol=1e-4)
    # it is a matter of the rows: another row changes nothing
    rows = [torch.stack([part, torch.rand(len(part))])[:, None] for part in (crop, before, after)]
    both = encoder.crop(rows[0], rows[1], torch.tensor([int(lengths), past]), rows[2])
    torch.testing.assert_close(both[:1], found, atol=2e-4, rtol=1e-4)


def test_a_crop_of_a_raw_encoder_has_the_frames_of_its_utterance(randomise) -> None:
    encoder = randomise(Encoder(EncoderConfig(strides=(2, 4), channels=(6, 8), dilations=(1,), dim=4, lookahead=11)))
    wav = _speech(400)[None, None]
    whole = encoder(wav)[0][:, :, 5:15]
    found = encoder.crop(
        wav[:, :, 40:120], torch.nn.functional.pad(wav[:, :, :40], (40, 0)), torch.tensor([40]), wav[:, :, 120:131]
    )
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"multiple of the hop \(8\)"):
        encoder.crop(wav, wav[:, :, :9], torch.tensor([9]), wav[:, :, :0])


# --- what it is for ---


def test_a_gain_changes_nothing() -> None:
    front, wav = LogMelCMN(CMN), _speech(8000)[None, :, None]
    whole = front(wav)[0]
    for decibels in (-20, -6, 6):
        assert (front(wav * 10 ** (decibels / 20))[0] - whole).abs().max() < 2e-3  # in units of about 10 dB


def test_a_gain_changes_little_with_pcen() -> None:
    front, wav = PCEN(PER_CHANNEL), _speech(8000)[None, :, None]
    assert (front(wav / 2)[0] - front(wav)[0]).abs().mean() < 0.02  # alpha 0.98 leaves 2 % of 6 dB
    log_mel = build_frontend(ALL[0], 16000)
    assert (log_mel(wav / 2)[0] - log_mel(wav)[0]).abs().max() > 0.29  # 6 dB of 20


def test_digital_silence_is_no_speech() -> None:
    front = LogMelCMN(CMN)
    _, (_, peak, total) = front(torch.zeros(1, 4000, 1))
    assert peak.item() == LOWEST_PEAK and not total.any()


@KINDS
def test_every_kind_has_a_random_equalizer_in_training(cfg: FrontendConfig) -> None:
    front, wav = build_frontend(replace(cfg, equalizer_db=6.0), 16000), _speech(4000)[None, :, None]
    unaltered = build_frontend(cfg, 16000)(wav)[0]
    assert (front.train()(wav)[0] - unaltered).abs().max() > 0.1
    assert torch.equal(front.eval()(wav)[0], unaltered)


# --- constants ---


@ADAPTIVE_KINDS
def test_constants_standardise_the_speech_that_they_are_computed_from(cfg: FrontendConfig) -> None:
    front = build_frontend(replace(cfg, warp=0.05, equalizer_db=6.0), 16000)
    assert isinstance(front, LogMelCMN | PCEN)
    utterances = [_speech(4000 + 40 * i, seed=i) for i in range(4)]
    front.train().initialise(lambda: utterances)
    assert front.training and front.initialised
    front.eval()
    output = torch.cat([front(front.whole_frames(wav))[0][0] for wav in utterances])
    torch.testing.assert_close(output.mean(0), torch.zeros(20), atol=1e-3, rtol=0)
    torch.testing.assert_close(output.std(0), torch.ones(20), atol=1e-2, rtol=0)
    again = build_frontend(cfg, 16000)
    assert isinstance(again, LogMelCMN | PCEN)
    again.initialise(lambda: utterances)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in front.state_dict().items())
    with pytest.raises(ValueError, match="no frames to compute statistics from"):
        again.initialise(list)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (LogMelCMNConfig, {"n_mels": 0}, "n_mels must be at least 1"),
        (LogMelCMNConfig, {"peak_fall": 0.0}, "peak_fall"),
        (LogMelCMNConfig, {"time_constant": float("inf")}, "time_constant"),
        (PCENConfig, {"n_mels": 0}, "n_mels must be at least 1"),
        (PCENConfig, {"gain": 1.1}, r"gain must lie in \[0, 1\]"),
        (PCENConfig, {"eps": 0.0}, "eps"),
    ],
)
def test_bad_values_are_refused(kind: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


@KINDS
def test_the_fingerprint_covers_every_option_but_those_of_training(cfg: FrontendConfig) -> None:
    listed = type(cfg).FINGERPRINT
    assert listed.never == ("warp", "equalizer_db")
    assert {*listed.always, *listed.unless_default} == {each.name for each in fields(cfg)} - {*listed.never}
