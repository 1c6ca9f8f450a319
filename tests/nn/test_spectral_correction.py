"""Corrected noise has the spectrum that was asked for; a sound that has it already stays as it is."""

from __future__ import annotations

import pytest
import torch

from vqaudio.nn.log_mel import STD_DB, LogMelConfig
from vqaudio.nn.spectral_correction import SpectralCorrection

HOP = 160
CORRECTION = SpectralCorrection(LogMelConfig(n_mels=40), 16000).eval()


def corrected(wav: torch.Tensor, spectra: torch.Tensor, samples: int | None = None) -> torch.Tensor:
    """(B, N * hop), of which `samples` are valid (None: all) -> the same, without the delay."""
    padded = torch.cat([wav, torch.zeros(len(wav), 4 * HOP)], dim=1)
    repeated = torch.cat([spectra, spectra[:, -1:].expand(-1, 4, -1)], dim=1)
    whole, _ = CORRECTION(padded, repeated, CORRECTION.start(len(wav)), samples or wav.shape[1])
    return whole[:, CORRECTION.delay :][:, : wav.shape[1]]


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return 0.05 * torch.randn(1, count * HOP, generator=torch.Generator().manual_seed(seed))


def test_noise_gets_the_spectrum_that_is_asked_for() -> None:
    wav, other = noise(100), CORRECTION.log_mel.centred(noise(100, 1), 100)
    asked = other.mean(1, keepdim=True).expand(-1, 100, -1)

    def error(of: torch.Tensor) -> float:
        return STD_DB * float((CORRECTION.log_mel.centred(of, 100) - asked)[:, 5:95].std())

    assert error(wav) > 2.5 and error(corrected(wav, asked)) < 0.6 * error(wav)


def test_what_has_the_spectrum_already_hardly_changes() -> None:
    wav = noise(60)
    error = (corrected(wav, CORRECTION.log_mel.centred(wav, 60)) - wav)[:, 1600:-1600]
    assert error.square().mean() < 0.3 * wav.square().mean()  # windows between frames have interpolated spectra
    tone = 0.1 * torch.sin(2 * torch.pi * 500 * torch.arange(60 * HOP) / 16000)[None]
    error = (corrected(tone, CORRECTION.log_mel.centred(tone, 60)) - tone)[:, 1600:-1600]
    assert error.abs().max() < 0.003  # aligned in time


@pytest.mark.parametrize("cuts", [[20, 40], [1] * 60])
def test_pieces_equal_the_whole(cuts: list[int]) -> None:
    wav, spectra = noise(60), torch.randn(1, 60, 40) * 0.3
    whole, _ = CORRECTION(wav, spectra, CORRECTION.start(1))
    state, found, start = CORRECTION.start(1), [], 0
    for size in cuts:
        part = slice(start, start + size)
        piece, state = CORRECTION(wav[:, start * HOP : (start + size) * HOP], spectra[:, part], state)
        found.append(piece)
        start += size
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("samples", [1, 100, 159, 4 * HOP, 9 * HOP + 7, 20 * HOP])
@pytest.mark.parametrize("step", [1, 3, 20])
def test_an_utterance_in_pieces_of_any_length_has_the_same_bits(samples, step) -> None:
    """As many samples come back as went in, those of the whole."""
    count = -(-samples // HOP)
    wav, spectra = (
        noise(count)[0, :samples],
        torch.randn(1, count, 40, generator=torch.Generator().manual_seed(2)) * 0.3,
    )
    state, found = CORRECTION.begin(), []
    for start in range(0, count, step):
        part = slice(start * HOP, (start + step) * HOP)
        piece, state = CORRECTION.extend(wav[part], spectra[:, start : start + step], state)
        found.append(piece)
    found = torch.cat([*found, CORRECTION.finish(state)])
    whole, later = CORRECTION.extend(wav, spectra, CORRECTION.begin())
    whole = torch.cat([whole, CORRECTION.finish(later)])
    assert found.shape == (samples,) and torch.equal(found, whole)
    padded = torch.nn.functional.pad(wav, (0, count * HOP - samples))[None]
    torch.testing.assert_close(found, corrected(padded, spectra, samples)[0, :samples], rtol=1e-4, atol=1e-7)


def test_the_ends_of_an_utterance_are_not_louder() -> None:
    """Windows that reach beyond it have only their share of the power."""
    levels, spectra = [], CORRECTION.log_mel.centred(noise(400, 3), 400).mean(1, keepdim=True).expand(-1, 30, -1)
    for seed in range(20):
        found, state = CORRECTION.extend(noise(30, seed)[0], spectra, CORRECTION.begin())
        wav = torch.cat([found, CORRECTION.finish(state)])
        levels.append([float(part.square().mean()) for part in (wav[:80], wav[800:-800], wav[-80:])])
    first, middle, last = torch.tensor(levels).mean(0).sqrt().tolist()
    assert 0.7 < first / middle < 1.2 and 0.7 < last / middle < 1.2


def test_nothing_is_corrected_to_nothing() -> None:
    assert len(CORRECTION.finish(CORRECTION.begin())) == 0


def test_silence_stays_finite() -> None:
    found = corrected(torch.zeros(1, 20 * HOP), torch.full((1, 20, 40), 3.0))
    assert found.isfinite().all() and not found.any()


def test_windows_that_do_not_fit_are_refused() -> None:
    for cfg in (LogMelConfig(n_mels=40, win_length=410), LogMelConfig(n_mels=40, hop_length=161, win_length=483)):
        with pytest.raises(ValueError, match=r"a multiple of half of an even spectrum\.hop_length"):
            SpectralCorrection(cfg, 16000)
