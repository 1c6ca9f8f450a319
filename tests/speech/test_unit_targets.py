"""The targets of the unit objective against direct computations on noise with a spectrum of its speaker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from vqaudio.data.packed import PackedSpeech
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.mel import MelConfig, MelFilterbank
from vqaudio.nn.units import UnitsConfig
from vqaudio.speech.config import SpeechVQVAEConfig
from vqaudio.speech.unit_targets import (
    PRIOR_FRAMES,
    Cepstra,
    UnitTargetStatistics,
    dct_matrix,
    speaker_statistics,
    unit_targets,
    with_deltas,
)

CFG = UnitsConfig(num_clusters=6, num_cepstra=15, n_mels=20)


@pytest.fixture(scope="module")
def make() -> Callable[..., PackedSpeech]:
    """A function (seed, gain) -> 6 utterances of two speakers, whose spectra are tilted in opposite ways."""

    def corpus(seed: int = 0, gain: float = 1.0) -> PackedSpeech:
        rng, wavs = np.random.default_rng(seed), []
        for i in range(6):
            noise = rng.normal(size=6000 + 1000 * i)
            tilted = noise[1:] + (0.9 if i % 2 else -0.9) * noise[:-1]
            wavs.append((2000 * gain * tilted * np.sin(np.arange(len(tilted)) / 900) ** 2).astype(np.int16))
        lengths = np.array([len(wav) for wav in wavs])
        offsets, speakers = np.cumsum([0, *lengths[:-1]]), np.arange(6) % 2
        samples, ids = np.concatenate(wavs), tuple("abcdef")
        return PackedSpeech(16000, ("x", "y"), ids, offsets, lengths, speakers, samples, "")

    return corpus


def _wav(speech: PackedSpeech, i: int) -> torch.Tensor:
    return torch.from_numpy(speech.audio(i).astype(np.float32) / 32768)


def test_cepstra_by_hand(make) -> None:
    speech = make()
    wav = _wav(speech, 0)
    found, active = Cepstra(CFG, 16000)(wav)
    padded = np.pad(wav.double().numpy(), (120, 400))  # windows of 400 samples around frames of 160
    frames = np.stack([padded[160 * n : 160 * n + 400] for n in range(len(found))])
    power = np.abs(np.fft.rfft(frames * np.hanning(401)[:-1], 1024)) ** 2
    mel = power @ MelFilterbank(MelConfig(20, f_max=6600)).banks[0].double().numpy()
    level = 10 * np.log10(mel.mean(1))
    below = 10 * np.log10(mel / 10 ** (level.max() / 10) + 1e-6)
    assert len(found) == -(-len(wav) // 160)
    basis = [[np.cos(np.pi * k * (n + 0.5) / 20) * (0.1 if k else 0.05) ** 0.5 for n in range(20)] for k in range(15)]
    np.testing.assert_allclose(found[1:], (below @ np.array(basis).T)[1:], atol=0.1)  # the first begins later
    assert active[1:].tolist() == (level > level.max() - 35).tolist()[1:]
    assert active.any() and not active.all()
    quieter, _ = Cepstra(CFG, 16000)(wav / 4)
    torch.testing.assert_close(quieter, found, atol=1e-2, rtol=0)


def test_the_cosine_transform_is_orthonormal() -> None:
    dct = dct_matrix(20, 20)
    torch.testing.assert_close(dct @ dct.T, torch.eye(20), atol=1e-5, rtol=0)


def test_derivatives_are_slopes_of_lines() -> None:
    n = torch.arange(30.0)
    cepstra = torch.stack([3 * n, n**2 / 2, *(torch.zeros(30),) * 13], 1)  # 15, of which 13 are used
    found = with_deltas(cepstra)
    assert found.shape == (30, 39)
    inner = slice(8, -8)
    torch.testing.assert_close(found[:, :13], cepstra[:, :13])
    torch.testing.assert_close(found[inner, 13], torch.full((14,), 3.0))
    torch.testing.assert_close(found[inner, 14], n[inner])
    torch.testing.assert_close(found[inner, 27], torch.ones(14))
    torch.testing.assert_close(found[:, 13:], torch.from_numpy(_slopes_twice(cepstra[:, :13].numpy())).float())


def _slopes_twice(x: np.ndarray) -> np.ndarray:
    """By least squares, the ends repeated outwards."""
    padded = np.pad(x, ((8, 8), (0, 0)), mode="edge")

    def slopes(y: np.ndarray) -> np.ndarray:
        return np.stack([np.polyfit(np.arange(9), y[i : i + 9], 1)[0] for i in range(len(y) - 8)])

    first = slopes(padded)
    return np.concatenate([first[4:-4], slopes(first)], 1)


def test_speaker_statistics_are_shrunk_towards_those_of_all(make) -> None:
    speech, cepstra = make(), Cepstra(CFG, 16000)
    silent = replace(speech, speakers=("x", "y", "nobody"))
    mean, std = speaker_statistics(cepstra, silent)
    rows = [c[active].double() for c, active in (cepstra(_wav(speech, i)) for i in range(6))]
    everything = torch.cat(rows)
    for s in range(2):
        own = torch.cat(rows[s::2])
        expected = (own.sum(0) + PRIOR_FRAMES * everything.mean(0)) / (len(own) + PRIOR_FRAMES)
        torch.testing.assert_close(mean[s].double(), expected, atol=1e-4, rtol=1e-5)
        squares = (own - expected).square().sum(0) + PRIOR_FRAMES * everything.var(0, correction=0)
        torch.testing.assert_close(std[s].double(), (squares / (len(own) + PRIOR_FRAMES)).sqrt(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(mean[2].double(), everything.mean(0), atol=1e-4, rtol=1e-5)
    assert (mean[0] - mean[1]).abs().max() > 1  # the tilt of the spectrum


def test_targets_are_the_nearest_clusters_of_normalised_cepstra(make) -> None:
    speech = make()
    teacher = UnitTargetStatistics.fit(speech, CFG)
    found = list(teacher.targets(speech))
    cepstra = Cepstra(CFG, 16000)
    for i, (clusters, vectors) in enumerate(found):
        normalised = (cepstra(_wav(speech, i))[0] - teacher.mean[i % 2]) / teacher.std[i % 2]
        np.testing.assert_allclose(vectors, normalised, atol=1e-2)
        features = (with_deltas(normalised) - teacher.feature_mean) / teacher.feature_std
        distances = torch.cdist(features.double(), teacher.centres.double())
        assert clusters.tolist() == distances.argmin(1).tolist()
    assert {*np.concatenate([clusters for clusters, _ in found]).tolist()} == set(range(6))
    again = list(UnitTargetStatistics.fit(make(), CFG).targets(speech))
    assert all(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(found, again, strict=True))
    with pytest.raises(ValueError, match="more speech"):
        UnitTargetStatistics.fit(speech, replace(CFG, num_clusters=5000))


def _model(units: UnitsConfig, hop: int = 320) -> SpeechVQVAEConfig:
    encoder = EncoderConfig(strides=(hop,), channels=(4,))
    return SpeechVQVAEConfig(encoder=encoder, units=units, stage="codes", target="units")


def test_targets_are_cached_by_content(make, tmp_path, monkeypatch) -> None:
    train, held_out = make(), make(seed=1)
    first, valid = unit_targets(_model(CFG), train, held_out, tmp_path)
    assert first is not None and valid is not None
    expected = np.concatenate([clusters for clusters, _ in UnitTargetStatistics.fit(train, CFG).targets(held_out)])
    assert np.array_equal(valid.frames.clusters, expected)
    folders = {path.name for path in tmp_path.glob("units-*")}
    monkeypatch.setattr(UnitTargetStatistics, "fit", None)  # from here on nothing is computed
    other_losses = replace(CFG, cluster_weight=2.0, cluster_offsets=(0,))
    again, _ = unit_targets(_model(other_losses, hop=640), make(), held_out, tmp_path)
    assert again is not None and np.array_equal(again.frames.clusters, first.frames.clusters)
    assert (again.margin, again.samples_per_code) == (6, 640)
    assert {path.name for path in tmp_path.glob("units-*")} == folders and len(folders) == 2
    for other in (replace(CFG, num_clusters=5), replace(CFG, f_max=6000.0)):
        with pytest.raises(TypeError, match="NoneType"):
            unit_targets(_model(other), train, held_out, tmp_path)
    with pytest.raises(TypeError, match="NoneType"):
        unit_targets(_model(CFG), make(gain=0.5), held_out, tmp_path)
    assert unit_targets(SpeechVQVAEConfig(), train, held_out, tmp_path) == (None, None)
