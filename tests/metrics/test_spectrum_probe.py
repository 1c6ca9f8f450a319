"""Ridge regression from codes to the log-mel spectrum."""

from __future__ import annotations

import numpy as np
import pytest

from vqaudio.metrics.spectrum_probe import SpectrumProbe

K, BANDS, RATIO = 8, 3, 2


def _speech(seed: int, count: int = 400, speaker: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N,), and spectra (N * R, F) that depend on a code and the next one, and on the speaker."""
    table = np.random.default_rng(0).normal(size=(2, K, RATIO * BANDS))
    codes = np.random.default_rng(seed).integers(0, K, count)
    following = codes[np.minimum(np.arange(count) + 1, count - 1)]
    spectra = table[0, codes] + table[1, following] + speaker
    return codes, spectra.reshape(count * RATIO, BANDS).astype(np.float32)


def test_it_predicts_what_a_code_and_its_neighbours_determine() -> None:
    train = {name: _speech(seed, speaker=shift) for seed, (name, shift) in enumerate({"a": 0.0, "b": 2.0}.items())}
    probe = SpectrumProbe.fit(
        [codes for codes, _ in train.values()],
        [spectra for _, spectra in train.values()],
        list(train),
        codebook_size=K,
        frame_rate=50.0,
    )
    assert probe.speakers == ("a", "b")
    codes, spectra = _speech(9, 50, speaker=2.0)
    assert probe.predict(codes, "b").shape == (50 * RATIO, BANDS)
    assert probe.predict(codes, "b") == pytest.approx(spectra, abs=0.1)
    assert np.abs(probe.predict(codes, "a") - spectra).mean() > 1.5
    assert np.abs(probe.predict(codes[::-1].copy(), "b") - spectra).mean() > 0.5


def test_a_speaker_who_was_not_fitted_gets_an_average() -> None:
    codes, spectra = _speech(1)
    probe = SpectrumProbe.fit([codes, codes], [spectra, spectra + 2], ["a", "b"], codebook_size=K, frame_rate=50.0)
    between = (probe.predict(codes, "a") + probe.predict(codes, "b")) / 2
    assert probe.predict(codes, "nobody") == pytest.approx(between, abs=0.05)


def test_codes_that_never_occurred_and_single_codes_are_predicted() -> None:
    codes, spectra = _speech(1)
    probe = SpectrumProbe.fit([codes], [spectra], ["a"], codebook_size=K + 1, frame_rate=50.0)
    assert np.isfinite(probe.predict(np.array([K]), "a")).all()


def test_lists_of_different_lengths_are_refused() -> None:
    codes, spectra = _speech(1)
    with pytest.raises(ValueError, match="codes of 1, spectra of 2 and speakers of 1 utterances"):
        SpectrumProbe.fit([codes], [spectra, spectra], ["a"], codebook_size=K, frame_rate=50.0)
    with pytest.raises(ValueError, match="codes of 0"):
        SpectrumProbe.fit([], [], [], codebook_size=K, frame_rate=50.0)
