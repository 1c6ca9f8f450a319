"""Assets of the page against cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vqaudio.data.alignments import Segment
from vqaudio.data.audio import read_audio
from vqaudio.report.assets import MELS, clip, code_entries, draw_spectrogram, envelope, runs, timeline
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.rows import TokenRow

RATE, HOP = 1000, 100  # ten frames a second


def _row(id: str, speaker: str | None, codes: list[int]) -> TokenRow:
    return TokenRow(id, speaker, Tokens(torch.tensor(codes), len(codes) * HOP, RATE, HOP, "model"))


ROWS = [_row("a", "anna", [0, 0, 1, 1, 1, 0]), _row("b", "bert", [1, 1, 1, 1, 0, 2]), _row("c", None, [0, 1])]
WAVS = {
    row.id: np.random.default_rng(i).uniform(-0.5, 0.5, row.tokens.num_samples).astype(np.float32)
    for i, row in enumerate(ROWS)
}
ALIGNMENTS = {"a": [Segment(0.0, 0.24, "sil"), Segment(0.24, 0.55, "s")], "b": [Segment(0.1, 0.3, "s")]}


def test_runs_of_equal_codes() -> None:
    assert runs(np.array([4, 4, 1, 4])) == [(4, 0, 2), (1, 2, 3), (4, 3, 4)]
    assert runs(np.array([7])) == [(7, 0, 1)] and runs(np.array([], dtype=np.int64)) == []


def test_a_code_has_its_frequency_phones_speakers_and_snippets(tmp_path: Path) -> None:
    zero, one, two, three = code_entries(ROWS, 4, tmp_path, wavs=WAVS, alignments=ALIGNMENTS)
    assert [code["count"] for code in (zero, one, two, three)] == [5, 8, 1, 0]
    assert zero["fraction"] == pytest.approx(5 / 14, abs=1e-6) and three["fraction"] == 0
    # frames of code 1 in `a` lie at 0.25, 0.35, 0.45 s: all in s; in `b` those at 0.15 and 0.25 s
    assert one["phones"] == {"s": 1.0}
    # of code 0 in `a`, 0.05 and 0.15 s lie in sil, and 0.55 s after the last segment
    assert zero["phones"] == {"sil": 1.0} and two["phones"] == {}
    assert one["speakers"] == {"bert": round(4 / 7, 4), "anna": round(3 / 7, 4)}
    assert zero["speakers"] == {"anna": 0.75, "bert": 0.25}
    assert one["mean_run_ms"] == pytest.approx(100 * 8 / 3, abs=0.05) and three["mean_run_ms"] is None
    assert one["snippets"] == ["audio/b.wav#t=0.000,0.600", "audio/a.wav#t=0.000,0.600", "audio/c.wav#t=0.000,0.200"]
    assert zero["snippets"][:2] == ["audio/a.wav#t=0.000,0.400", "audio/b.wav#t=0.200,0.600"]
    assert three["snippets"] == [] and three["speakers"] == {}
    assert sorted(path.name for path in (tmp_path / "audio").iterdir()) == ["a.wav", "b.wav", "c.wav"]
    written = read_audio(tmp_path / "audio/b.wav", RATE)
    assert np.abs(written - WAVS["b"]).max() <= 0.5 / 32768 + 1e-7


def test_the_order_of_utterances_does_not_matter(tmp_path: Path) -> None:
    forward = code_entries(ROWS, 3, tmp_path, wavs=WAVS, alignments=ALIGNMENTS)
    assert code_entries(ROWS[::-1], 3, tmp_path, wavs=WAVS, alignments=ALIGNMENTS) == forward


def test_snippets_are_limited_and_only_of_utterances_with_audio(tmp_path: Path) -> None:
    _, one, _ = code_entries(ROWS, 3, tmp_path, wavs=WAVS, snippets=1)
    assert one["snippets"] == ["audio/b.wav#t=0.000,0.600"] and one["phones"] == {}
    _, one, _ = code_entries(ROWS, 3, tmp_path, wavs={"c": WAVS["c"]})
    assert one["snippets"] == ["audio/c.wav#t=0.000,0.200"] and one["count"] == 8


def test_without_audio_nothing_is_written(tmp_path: Path) -> None:
    assert all(code["snippets"] == [] for code in code_entries(ROWS, 3, tmp_path))
    shown = timeline(ROWS[0], tmp_path)
    assert shown["audio"] is None and shown["waveform"] == [] and shown["codes"] == [0, 0, 1, 1, 1, 0]
    assert list(tmp_path.iterdir()) == []


def test_codes_of_another_codebook_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"codes of 'b' must lie in 0\.\.1, got 0\.\.2"):
        code_entries(ROWS, 2, tmp_path)


def test_an_envelope_holds_minimum_and_maximum_of_each_part() -> None:
    wav = np.array([0, 1, -1, 0.5, 0.25, 0.25], np.float32)
    assert envelope(wav, 3).tolist() == [[0, 1], [-1, 0.5], [0.25, 0.25]]
    assert envelope(wav, 100).tolist() == [[x, x] for x in wav.tolist()]  # no more points than samples
    long = np.random.default_rng(0).standard_normal(16001).astype(np.float32)
    assert len(envelope(long)) == 1000 and envelope(long).min() == long.min() and envelope(long).max() == long.max()


def test_a_timeline_refers_to_files_of_the_report(tmp_path: Path) -> None:
    shown = timeline(ROWS[0], tmp_path, wav=WAVS["a"], segments=ALIGNMENTS["a"], text="so")
    assert (shown["id"], shown["speaker"], shown["text"], shown["seconds"]) == ("a", "anna", "so", 0.6)
    assert shown["frame_rate"] == 10 and shown["segments"] == [[0.0, 0.24, "sil"], [0.24, 0.55, "s"]]
    assert (tmp_path / shown["audio"]).is_file() and (tmp_path / shown["picture"]).is_file()
    assert len(shown["waveform"]) == 600


def test_a_spectrogram_shows_a_tone_at_its_frequency(tmp_path: Path) -> None:
    from librosa import mel_frequencies
    from matplotlib import image

    seconds = np.arange(16000) / 16000
    draw_spectrogram(tmp_path / "tone.png", np.sin(2 * np.pi * 1000 * seconds).astype(np.float32), 16000)
    picture = image.imread(tmp_path / "tone.png")[..., :3].sum(2)
    assert picture.shape == (MELS, 201)
    brightest = MELS - 1 - int(picture[:, 20:-20].mean(1).argmax())  # rows count from the top
    assert abs(mel_frequencies(MELS + 2, fmax=8000)[1 + brightest] - 1000) < 40


def test_the_width_of_a_picture_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import image

    monkeypatch.setattr("vqaudio.report.assets.MAX_COLUMNS", 50)
    draw_spectrogram(tmp_path / "noise.png", np.random.default_rng(0).standard_normal(16000).astype(np.float32), 16000)
    assert image.imread(tmp_path / "noise.png").shape[1] == 51


def test_silence_is_drawn_too(tmp_path: Path) -> None:
    from matplotlib import image

    draw_spectrogram(tmp_path / "silence.png", np.zeros(1600, np.float32), 16000)
    assert np.ptp(image.imread(tmp_path / "silence.png")[..., :3], axis=(0, 1)).max() == 0


def test_a_clip_has_a_valid_file_name(tmp_path: Path) -> None:
    assert clip(tmp_path, "set/one two", WAVS["a"], RATE) == "audio/set_one two.wav"
    assert (tmp_path / "audio/set_one two.wav").is_file()
