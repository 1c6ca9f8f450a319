import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqaudio.data.manifest import Utterance, read_manifest

ROW = {"id": "a", "path": "a.wav", "speaker": "s", "seconds": 1.5}

names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1)
utterances = st.lists(
    st.builds(
        Utterance,
        id=names.filter(lambda name: name not in (".", "..")),
        path=names.map(lambda name: Path("audio") / f"x{name}"),
        speaker=names,
        seconds=st.floats(min_value=1e-4, max_value=1e6),
        text=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    ),
    unique_by=lambda utterance: utterance.id,
    max_size=5,
)


@given(utterances)
def test_round_trip(tmp_path_factory, write_manifest, rows) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    rows = [Utterance(u.id, folder / u.path, u.speaker, u.seconds, u.text) for u in rows]
    write_manifest(folder / "m.jsonl", rows)
    assert read_manifest(folder / "m.jsonl") == rows


def test_paths_below_the_manifest_are_relative_others_absolute(tmp_path, write_manifest) -> None:
    inside = Utterance("in", tmp_path / "m" / "wav" / "a.wav", "s", 1.0)
    outside = Utterance("out", tmp_path / "elsewhere" / "b.wav", "s", 1.0, "hello")
    (tmp_path / "m").mkdir()
    write_manifest(tmp_path / "m" / "m.jsonl", [inside, outside])
    rows = [json.loads(line) for line in (tmp_path / "m" / "m.jsonl").read_text().splitlines()]
    assert rows == [
        {"id": "in", "path": "wav/a.wav", "speaker": "s", "seconds": 1.0},
        {
            "id": "out",
            "path": str(tmp_path / "elsewhere" / "b.wav"),
            "speaker": "s",
            "seconds": 1.0,
            "text": "hello",
        },
    ]


def test_a_moved_folder_still_finds_its_audio(tmp_path, write_manifest) -> None:
    (tmp_path / "old").mkdir()
    write_manifest(tmp_path / "old" / "m.jsonl", [Utterance("a", tmp_path / "old/a.wav", "s", 1.0)])
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_manifest(tmp_path / "new" / "m.jsonl")[0].path == tmp_path / "new" / "a.wav"


def test_relative_paths_given_by_the_user_are_kept(tmp_path, monkeypatch, write_manifest) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    write_manifest(Path("out/m.jsonl"), [Utterance("a", Path("corpus/a.wav"), "s", 1.0)])
    assert read_manifest("out/m.jsonl")[0].path == tmp_path / "corpus" / "a.wav"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "must be a JSON object, got list"),
        ('{"id": "a"}', "missing path, speaker, seconds"),
        ("{}", "it has nothing"),
        (json.dumps({**ROW, "id": 3}), "id must be a non-empty string, got 3"),
        (json.dumps({**ROW, "path": ""}), "path must be a non-empty string"),
        (json.dumps({**ROW, "speaker": None}), "speaker must be"),
        (json.dumps({**ROW, "seconds": "1.5"}), "seconds must be a number, got '1.5'"),
        (json.dumps({**ROW, "seconds": True}), "seconds must be a number"),
        (json.dumps({**ROW, "seconds": 0}), "must be above 0"),
        (json.dumps({**ROW, "seconds": float("nan")}), "must be above 0"),
        (json.dumps({**ROW, "text": 5}), "text must be a string"),
        (json.dumps({**ROW, "speaker": "\ud800"}), "speaker and text must be Unicode text"),
        (json.dumps({**ROW, "text": "\udce9"}), "speaker and text must be Unicode text"),
        (json.dumps({**ROW, "path": "\ud800.wav"}), "path must be a valid name of a file"),
        (json.dumps({**ROW, "path": "a\0.wav"}), "path must be a valid name of a file"),
        (json.dumps({**ROW, "id": "../a"}), "usable as a file name"),
        (json.dumps({**ROW, "id": "first"}), "used in line 1 already"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, line, message) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({**ROW, "id": "first"}) + "\n\n" + line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")


def test_further_keys_and_blank_lines_are_allowed(tmp_path) -> None:
    (tmp_path / "m.jsonl").write_text("\n" + json.dumps({**ROW, "accent": "x"}) + "\n\n")
    assert read_manifest(tmp_path / "m.jsonl") == [Utterance("a", tmp_path / "a.wav", "s", 1.5)]


def test_missing_or_binary_manifest(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; create it with vqaudio prepare"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_manifest(tmp_path / "m.jsonl")
