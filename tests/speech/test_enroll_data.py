"""Finding the utterances of new speakers in a folder, and holding some of them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqaudio.data.audio import AudioError
from vqaudio.data.corpora import prepare
from vqaudio.data.manifest import Utterance
from vqaudio.speech.enroll_data import find_new_speakers


def _record(path: Path, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(seconds * 1000), 0.1), 1000)


@pytest.fixture
def eva(tmp_path: Path) -> Path:
    """A folder with 25 utterances of one second, 00 to 24, five of them in a subfolder."""
    for i in range(25):
        _record(tmp_path / "eva" / ("more" if i >= 20 else ".") / f"{i:02}.wav")
    return tmp_path / "eva"


def test_a_folder_is_one_speaker(eva: Path) -> None:
    new = find_new_speakers(eva)
    assert new.speakers == ("eva",)
    assert [u.id for u in new.valid] == ["04", "14", "more-24"]
    assert sorted(u.id for u in new.train + new.valid) == [f"{i:02}" for i in range(20)] + [
        f"more-{i}" for i in range(20, 25)
    ]
    assert find_new_speakers(eva, "ewa").speakers == ("ewa",)
    assert find_new_speakers(eva) == new


@pytest.mark.parametrize(("count", "held_out"), [(2, ["1"]), (4, ["3"]), (5, ["4"]), (6, ["4"])])
def test_at_least_one_utterance_is_held_out(tmp_path: Path, count: int, held_out: list[str]) -> None:
    for i in range(count):
        _record(tmp_path / "eva" / f"{i}.wav", seconds=3)
    new = find_new_speakers(tmp_path / "eva")
    assert [u.id for u in new.valid] == held_out
    assert len(new.train) == count - 1


def test_manifests_give_speakers_and_parts(tmp_path: Path) -> None:
    for speaker in ("eva", "fred"):
        for i in range(12):
            _record(tmp_path / "speech" / speaker / f"{i}.wav")
    prepare("folder", tmp_path / "speech", tmp_path / "m", valid=0.25, test=0.25)
    new = find_new_speakers(tmp_path / "m")
    assert new.speakers == ("eva", "fred")
    assert [u.speaker for u in new.train] == ["eva"] * 6 + ["fred"] * 6
    assert [u.speaker for u in new.valid] == ["eva"] * 3 + ["fred"] * 3
    (tmp_path / "m" / "valid.jsonl").unlink()
    new = find_new_speakers(tmp_path / "m")
    assert [(u.speaker) for u in new.valid] == ["eva", "fred"]
    assert len(new.train) == 10
    with pytest.raises(ValueError, match="names the speakers; omit --speaker"):
        find_new_speakers(tmp_path / "m", "gina")


def test_manifests_that_contradict_each_other_are_refused(tmp_path: Path, write_manifest: Callable[..., None]) -> None:
    rows = [Utterance(str(i), tmp_path / f"{i}.wav", "eva", 4.0) for i in range(3)]
    write_manifest(tmp_path / "train.jsonl", rows)
    write_manifest(tmp_path / "valid.jsonl", rows[2:])
    with pytest.raises(ValueError, match=r"'2' is in .*train.jsonl and in valid.jsonl"):
        find_new_speakers(tmp_path)
    write_manifest(tmp_path / "valid.jsonl", [Utterance("9", tmp_path / "9.wav", "fred", 4.0)])
    with pytest.raises(ValueError, match=r"'fred' is in .*valid\.jsonl but not in train\.jsonl"):
        find_new_speakers(tmp_path)
    write_manifest(tmp_path / "train.jsonl", [])
    with pytest.raises(ValueError, match=r"train.jsonl is empty"):
        find_new_speakers(tmp_path)


def test_too_little_speech_is_refused(tmp_path: Path) -> None:
    _record(tmp_path / "eva" / "long.wav", seconds=60)
    with pytest.raises(
        ValueError, match=r"has 1 utterance and 60.0 s of speaker 'eva'; at least 2 utterances .* and 5 s are required"
    ):
        find_new_speakers(tmp_path / "eva")
    for i in range(4):
        _record(tmp_path / "fred" / f"{i}.wav")
    with pytest.raises(ValueError, match=r"4 utterances and 4.0 s of speaker 'fred'.*a few minutes are better"):
        find_new_speakers(tmp_path / "fred")


def test_folders_without_speech_are_refused(tmp_path: Path, eva: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; give the folder"):
        find_new_speakers(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"00.wav is a file; give the folder"):
        find_new_speakers(eva / "00.wav")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there is no audio in .*empty or its subfolders, and no train\.jsonl"):
        find_new_speakers(tmp_path / "empty")


def test_a_folder_of_several_speakers_is_refused(tmp_path: Path, eva: Path) -> None:
    with pytest.raises(ValueError, match=r"lies in subfolders; .* pass --speaker NAME, .*vqaudio prepare folder"):
        find_new_speakers(tmp_path)
    assert find_new_speakers(tmp_path, "eva").speakers == ("eva",)


def test_files_that_cannot_be_used_are_left_out(eva: Path) -> None:
    (eva / "broken.wav").write_text("hello")
    new = find_new_speakers(eva)
    assert len(new.train) + len(new.valid) == 25
    assert [str(failure).split(" ")[0] for failure in new.failures] == [str(eva / "broken.wav")]
    for path in eva.rglob("[0-9]*.wav"):
        path.unlink()
    with pytest.raises(AudioError, match="none of the 1 audio files"):
        find_new_speakers(eva)


def test_unusable_files_are_named_also_where_too_little_is_left(tmp_path: Path) -> None:
    _record(tmp_path / "eva/0.wav", seconds=60)
    soundfile.write(tmp_path / "eva/1.wav", np.full(9000, np.nan), 1000, subtype="FLOAT")
    (tmp_path / "eva/2.m4a").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"has 1 utterance .*2 audio files cannot be used: .*1\.wav has NaN .*2\.m4a"):
        find_new_speakers(tmp_path / "eva")
