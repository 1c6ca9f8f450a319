"""F0 and voicing of synthetic voices with known contours, and of real speech with hand-labelled phones."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from vqaudio.data.audio import read_audio
from vqaudio.metrics.pitch import pitch

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "timit8"
RATE = 16_000
VOICED = " iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr m n ng em en eng nx l r w y el "
UNVOICED = " p t k pcl tcl kcl f s sh th ch h# pau epi "

pytest.importorskip("swift_f0", reason="the pitch tracker is absent: pip install 'vqaudio[metrics]'")


def _voice(hertz: np.ndarray, rate: int, peaks: tuple[float, ...] = (700, 1220, 2600)) -> np.ndarray:
    """F0 (T,) -> (T,): harmonics that fall by 12 dB per octave, with resonances of a vowel."""
    phase, wav = 2 * np.pi * np.cumsum(hertz) / rate, np.zeros(len(hertz))
    for k in range(1, int(0.45 * rate / hertz.max()) + 1):
        resonances = sum(1 / (1 + ((k * hertz - peak) / 100) ** 2) for peak in peaks)
        wav += np.sin(k * phase) / k**2 * (1 + 20 * resonances)
    return (0.3 * wav / abs(wav).max()).astype(np.float32)


def _glide(low: float, high: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    """(T,) up and down again, evenly in octaves."""
    return low * (high / low) ** np.sin(np.pi * np.arange(round(seconds * rate)) / (seconds * rate))


def _noise(count: int, level: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, count).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100])
@pytest.mark.parametrize(("low", "high"), [(65, 110), (100, 220), (220, 450)])
def test_known_contours_are_found(low: float, high: float, rate: int) -> None:
    """Frame n is centred on sample n * hop. All frames but the edges are voiced, within 30 cents, 10 on average."""
    contour = _glide(low, high, rate)
    found = pitch(_voice(contour, rate), rate)
    true = contour[:: round(0.01 * rate)]
    assert len(found.hertz) == len(found.voiced) == len(true)
    assert found.voiced[4:-4].all()
    cents = 1200 * np.log2(found.hertz / true)[4:-4]
    assert abs(cents).max() < 30 and np.sqrt((cents**2).mean()) < 10


def test_noise_does_not_move_the_pitch() -> None:
    contour = _glide(100, 300, RATE)
    voice = _voice(contour, RATE)
    noisy = voice + _noise(len(voice), 0.3 * float(np.sqrt(np.square(voice).mean())))  # at 10 dB
    found = pitch(noisy, RATE)
    assert found.voiced[4:-4].all()
    assert abs(1200 * np.log2(found.hertz / contour[::160])[4:-4]).max() < 60


def test_voicing_begins_and_ends_with_the_voice() -> None:
    """Noise, voice from 0.5 to 1 s, silence; to within 30 ms."""
    voice = _voice(np.full(RATE // 2, 150.0), RATE)
    found = pitch(np.concatenate([_noise(RATE // 2, 0.03), voice, np.zeros(RATE // 2, np.float32)]), RATE)
    frames = np.flatnonzero(found.voiced)
    assert abs(frames[0] - 50) <= 3 and abs(frames[-1] - 99) <= 3
    assert found.voiced[54:96].all()


def test_signals_without_pitch() -> None:
    for wav in (np.zeros(RATE, np.float32), np.full(RATE, 0.3, np.float32), _noise(2 * RATE, 0.1)):
        assert pitch(wav, RATE).voiced.mean() == 0


@pytest.mark.parametrize("count", [0, 1, 159, 160, 161, 257])
def test_the_number_of_frames_of_short_audio(count: int) -> None:
    found = pitch(_noise(count, 0.1), RATE)
    assert len(found.hertz) == len(found.voiced) == -(-count // 160)
    assert np.isfinite(found.hertz).all() and not found.voiced.any()


def test_the_level_does_not_change_the_pitch() -> None:
    wav = (_voice(_glide(90, 200, RATE), RATE) * np.linspace(0, 1, RATE)).astype(np.float32)
    a, b = pitch(wav, RATE), pitch(wav * np.float32(1 / 1024), RATE)
    assert np.array_equal(a.voiced, b.voiced) and np.array_equal(a.hertz, b.hertz)


@pytest.mark.data
def test_voicing_is_that_of_the_phones() -> None:
    """Of frames whose voicing follows from the phone: 3.9 % are wrong over all 80 utterances."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent; set VQAUDIO_DATA to the folder that holds timit8")
    wrong = []
    for path in sorted(DATA.glob("phn/*/*.phn"))[::4]:
        found = pitch(read_audio(DATA / "wav16" / path.parent.name / f"{path.stem}.flac", RATE), RATE)
        starts = np.arange(len(found.voiced)) * 160
        for start, end, phone in (line.split() for line in path.read_text().splitlines()):
            inside = (int(start) <= starts) & (starts < int(end))
            if f" {phone} " in VOICED + UNVOICED:
                wrong += list(found.voiced[inside] != (f" {phone} " in VOICED))
    assert np.mean(wrong) < 0.05 and len(wrong) > 4000


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from vqaudio.metrics.signal import check_packages

    monkeypatch.setitem(sys.modules, "swift_f0", None)
    with pytest.raises(ModuleNotFoundError, match=r"F0 needs swift-f0: pip install 'vqaudio\[metrics\]'"):
        check_packages()
