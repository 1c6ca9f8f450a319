"""Which files below a folder are audio, and who speaks in each of them."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqaudio.data.audio import AudioError, AudioWarning, audio_seconds
from vqaudio.data.audio_folders import AUDIO_SUFFIXES, audio_below, speech_below, visible_files


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_every_format_that_libsndfile_reads_is_audio(tmp_path) -> None:
    """Also under the usual suffixes, in upper case."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    formats = set(soundfile.available_formats()) - {"RAW", "SD2"}  # SD2 keeps its header in a hidden second file
    for name in formats:
        soundfile.write(tmp_path / f"{name}.{name}", noise, 8000, format=name)
    for name, suffix in (("AIFF", "AIF"), ("AU", "snd"), ("OGG", "oga"), ("NIST", "sph"), ("MAT5", "mat")):
        soundfile.write(tmp_path / f"usual.{suffix}", noise, 8000, format=name)
    paths = audio_below(tmp_path)
    assert len(paths) == len(formats) + 5
    assert all(audio_seconds(path) > 0 for path in paths)


def test_what_looks_like_audio_and_cannot_be_read_is_found_and_named(tmp_path) -> None:
    _touch(tmp_path, "a/talk.m4a", "a/x.RAW", "a/notes.txt", "a/numbers.mat", "a/cover.iff", "a/mix.webm")
    (tmp_path / "a/gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "a/self.wav").symlink_to(tmp_path / "a/self.wav")
    paths = audio_below(tmp_path)
    assert _names(paths, tmp_path / "a") == ["gone.wav", "mix.webm", "self.wav", "talk.m4a", "x.RAW"]
    for path in paths:
        with pytest.raises(AudioError, match=str(path)):
            audio_seconds(path)
    with pytest.raises(AudioError, match=r"gone\.wav is a link to .*nowhere\.wav, which does not exist"):
        audio_seconds(paths[0])


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch) -> None:
    """Simulated, because root may read everything."""
    _touch(tmp_path, "open/a.wav", "closed/b.wav")
    closed = tmp_path / "closed"
    scandir, access = os.scandir, os.access

    def refuse(path):
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and access(path, mode))
    assert audio_below(tmp_path) == [closed, tmp_path / "open/a.wav"]
    with pytest.raises(AudioError, match="closed is a folder that may not be read"):
        audio_seconds(closed)


def test_links_are_followed_and_every_folder_is_read_once(tmp_path) -> None:
    _touch(tmp_path, "c/s1/a.wav", "real/s2/b.wav", "real/s2/deep/d.wav", "real/e.wav")
    root = tmp_path / "c"
    (root / "s2").symlink_to(tmp_path / "real/s2")
    (root / "s1/e.wav").symlink_to(tmp_path / "real/e.wav")
    assert _names(audio_below(root), root) == ["s1/a.wav", "s1/e.wav", "s2/b.wav", "s2/deep/d.wav"]
    for name, target in (("s1/up", root), ("s1/above", tmp_path), ("a", root / "s1"), ("s3", tmp_path / "real/s2")):
        (root / name).symlink_to(target)
    (tmp_path / "real/s2/back").symlink_to(root)
    with pytest.warns(AudioWarning, match="5 links to folders that are read already were not followed, such as"):
        found = visible_files(root).files
    assert _names(found, root) == ["s1/a.wav", "s1/e.wav", "s2/b.wav", "s2/deep/d.wav"]


def test_hidden_files_folders_and_pipes_are_left_out(tmp_path) -> None:
    _touch(tmp_path, ".c/a.wav", ".c/.b.wav", ".c/.git/c.wav", ".c/x.wav/d.wav")
    os.mkfifo(tmp_path / ".c/pipe.wav")
    assert _names(audio_below(tmp_path / ".c"), tmp_path / ".c") == ["a.wav", "x.wav/d.wav"]


def test_of_several_versions_of_a_recording_one_is_taken(tmp_path, write_noise) -> None:
    write_noise(tmp_path / "s/SA1.wav").rename(tmp_path / "s/SA1.WAV")
    write_noise(tmp_path / "s/SA1.WAV.wav")
    write_noise(tmp_path / "s/SA2.WAV.wav")
    write_noise(tmp_path / "s/SA3.WAV.wav")
    write_noise(tmp_path / "s/talk.wav")
    _touch(tmp_path, "s/SA3.WAV", "s/talk.m4a")  # the original of SA3 cannot be read
    with pytest.warns(AudioWarning, match=r"3 files in .* were left out as other versions .*, such as .*SA1\.WAV\.wav"):
        paths = audio_below(tmp_path)
    assert _names(paths, tmp_path / "s") == ["SA1.WAV", "SA2.WAV.wav", "SA3.WAV.wav", "talk.wav"]


def test_the_first_folder_names_the_speaker(tmp_path) -> None:
    _touch(tmp_path, "loose.wav", "anna/a.wav", "bert/day1/b.wav", "a\\b/line\nbreak.wav")
    found = [(source.id, source.speaker) for source in speech_below(tmp_path)]
    expected = [("a_b-line_break", "a_b"), ("anna-a", "anna"), ("bert-day1-b", "bert"), ("loose", None)]
    assert found == expected
    assert [source.speaker for source in speech_below(tmp_path, 2)] == ["a_b", "anna", "day1", None]
    assert [(source.id, source.speaker) for source in speech_below(tmp_path, None)] == [
        (id, None) for id, _ in expected
    ]
    with pytest.raises(ValueError, match=r"the speaker level must be at least 1 .*, got 0"):
        speech_below(tmp_path, 0)


def test_a_level_that_does_not_seem_to_name_speakers_is_told(tmp_path) -> None:
    _touch(tmp_path, "one/TRAIN/DR1/FCJF0/a.wav", "two/TRAIN/DR1/FCJF0/a.wav", "two/TEST/DR1/MDAB0/a.wav")
    _touch(tmp_path, "flat/anna/a.wav", "deep/testa/day1/a.wav", "deep/bert/day1/a.wav")
    with pytest.warns(AudioWarning, match=r"only one speaker, 'TRAIN' \(folder level 1\), .*--speaker-level 2 or 3"):
        speech_below(tmp_path / "one")
    with pytest.warns(AudioWarning, match="a speaker 'TEST'"):
        speech_below(tmp_path / "two")
    for name in ("flat", "deep"):  # no warning: warnings are errors in tests
        speech_below(tmp_path / name)
    assert {source.speaker for source in speech_below(tmp_path / "two", 3)} == {"FCJF0", "MDAB0"}


def test_names_that_are_not_utf8_become_valid_ids_and_failures(tmp_path) -> None:
    for name in (b"caf\xe9.wav", b"caf\xe8.wav"):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).touch()
    sources = speech_below(tmp_path)
    assert [source.id for source in sources] == ["caf_xe8", "caf_xe9"]
    for source in sources:
        with pytest.raises(AudioError, match=r"caf\\xe[89]\.wav has a name that is not UTF-8; rename it"):
            audio_seconds(source.path)


def test_the_list_of_suffixes_is_that_of_libsndfile() -> None:
    assert {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"} <= AUDIO_SUFFIXES
