import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vqaudio.data.corpora as corpora
from vqaudio.data.audio import AudioError, AudioWarning
from vqaudio.data.corpora import folder, librispeech, prepare, vctk
from vqaudio.data.manifest import read_manifest


def _names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def vctk_080(tmp_path, write_noise) -> Path:
    root = tmp_path / "VCTK-Corpus"
    for speaker in ("p226", "p225", "p315"):
        for number in (2, 1):
            write_noise(root / f"wav48/{speaker}/{speaker}_00{number}.wav", rate=48000, frames=4800)
            if speaker != "p315":  # its texts were lost
                _text(root / f"txt/{speaker}/{speaker}_00{number}.txt", f" Text {number}. \n")
    (root / "wav48/p225/._p225_001.wav").write_bytes(b"left by macOS")
    (root / "wav48/p225/notes.txt").touch()
    return root


@pytest.fixture
def vctk_092(tmp_path, write_noise) -> Path:
    """s5 and p225 with both microphones, p280 with texts and p315 without, both without mic2."""
    root = tmp_path / "VCTK092"
    for speaker in ("p225", "s5", "p280", "p315"):
        for mic in ("mic1", "mic2"):
            if mic == "mic1" or speaker in ("p225", "s5"):
                name = f"wav48_silence_trimmed/{speaker}/{speaker}_001_{mic}.flac"
                write_noise(root / name, rate=48000, frames=9600)
        if speaker != "p315":
            _text(root / f"txt/{speaker}/{speaker}_001.txt", f"I am {speaker}.")
    (root / "wav48_silence_trimmed/log.txt").touch()
    return root


def test_vctk_080(vctk_080) -> None:
    utterances = vctk(vctk_080)
    ids = [f"p{speaker}_00{number}" for speaker in (225, 226, 315) for number in (1, 2)]
    assert [u.id for u in utterances] == ids
    assert [u.speaker for u in utterances] == [id[:4] for id in ids]
    assert [u.text for u in utterances] == ["Text 1.", "Text 2."] * 2 + [None, None]
    assert all(u.seconds == 0.1 for u in utterances)
    assert all(u.path == vctk_080 / "wav48" / u.speaker / f"{u.id}.wav" for u in utterances)
    assert vctk(vctk_080.parent) == utterances  # the folder that the archive was unpacked in


@pytest.mark.parametrize("mic", ["mic1", "mic2"])
def test_vctk_092_takes_the_other_microphone_where_one_is_missing(vctk_092, mic) -> None:
    found = [(u.id, u.path.stem, u.text) for u in vctk(vctk_092, mic=mic)]
    assert found == [
        ("p225_001", f"p225_001_{mic}", "I am p225."),
        ("p280_001", "p280_001_mic1", "I am p280."),
        ("p315_001", "p315_001_mic1", None),
        ("s5_001", f"s5_001_{mic}", "I am s5."),
    ]


def test_a_speaker_has_one_microphone(vctk_092, write_noise) -> None:
    write_noise(vctk_092 / "wav48_silence_trimmed/p225/p225_002_mic1.flac", rate=48000)
    assert [u.path.stem for u in vctk(vctk_092, mic="mic2") if u.speaker == "p225"] == ["p225_001_mic2"]


def test_unknown_microphone(vctk_092) -> None:
    with pytest.raises(ValueError, match="mic1 or mic2, got 'mic3'"):
        vctk(vctk_092, mic="mic3")  # pyright: ignore[reportArgumentType]


def test_wav16_layout(tmp_path, write_noise) -> None:
    write_noise(tmp_path / "mini/wav16/19/19_001.flac", frames=16000)
    _text(tmp_path / "mini/txt/19/19_001.txt", "Good morning.")
    (utterance,) = vctk(tmp_path / "mini")
    assert (utterance.id, utterance.speaker, utterance.seconds) == ("19_001", "19", 1.0)
    assert utterance.text == "Good morning."


@pytest.mark.parametrize("start", [".", "LibriSpeech", "LibriSpeech/dev-clean"])
def test_librispeech_from_each_level(tmp_path, write_noise, start) -> None:
    chapter = tmp_path / "LibriSpeech/dev-clean/84/121123"
    for number in ("0001", "0000"):
        write_noise(chapter / f"84-121123-{number}.flac")
    write_noise(chapter / "other.flac")
    write_noise(tmp_path / "LibriSpeech/dev-clean/174/50561/174-50561-0000.flac")
    _text(chapter / "84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT\n")
    found = [(u.id, u.speaker, u.text) for u in librispeech(tmp_path / start)]
    assert found == [
        ("174-50561-0000", "174", None),
        ("84-121123-0000", "84", "GO DO YOU HEAR"),
        ("84-121123-0001", "84", "BUT"),
    ]


def test_folder_per_speaker(tmp_path, write_noise) -> None:
    write_noise(tmp_path / "anna/b.wav")
    write_noise(tmp_path / "anna/a.flac", rate=44100)
    write_noise(tmp_path / "bert/day1/a.ogg", subtype="VORBIS")
    write_noise(tmp_path / ".trash/x.wav")
    write_noise(tmp_path / "bert/.hidden.wav")
    _text(tmp_path / "anna/a.txt", "Hello.")
    (tmp_path / "empty").mkdir()
    found = [(u.id, u.speaker, u.text) for u in folder(tmp_path)]
    assert found == [
        ("anna-a", "anna", "Hello."),
        ("anna-b", "anna", None),
        ("bert-day1-a", "bert", None),
    ]


def test_folder_explains_strays_and_equal_names(tmp_path, write_noise) -> None:
    write_noise(tmp_path / "anna/a.wav")
    write_noise(tmp_path / "anna/a.flac")
    with pytest.raises(ValueError, match=r"a\.\w+ and .*a\.\w+ would share the id 'anna-a'"):
        folder(tmp_path)
    write_noise(tmp_path / "stray.wav")
    with pytest.raises(ValueError, match=r"stray\.wav lies directly in"):
        folder(tmp_path)


@pytest.mark.parametrize(
    ("find", "layout"),
    [(vctk, "wav48_silence_trimmed/"), (librispeech, "SUBSET/SPEAKER"), (folder, "SPEAKER/")],
)
def test_missing_and_empty_roots_are_explained(tmp_path, find, layout) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; give the folder"):
        find(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=f"searched .*{layout}"):
        find(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        find(tmp_path / "file")


def test_unusable_files_raise_or_are_collected(vctk_080) -> None:
    whole = vctk(vctk_080)
    whole[0].path.write_text("text")
    with pytest.raises(AudioError, match="p225_001"):
        vctk(vctk_080)
    failures: list[AudioError] = []
    assert vctk(vctk_080, failures=failures) == whole[1:]
    assert len(failures) == 1


def test_text_in_another_encoding_is_left_out_and_named(vctk_080) -> None:
    whole = vctk(vctk_080)
    (vctk_080 / "txt/p225/p225_001.txt").write_bytes("é".encode("latin-1"))
    with pytest.warns(AudioWarning, match=r"1 text file cannot be read as UTF-8 .*p225_001\.txt; convert"):
        found = vctk(vctk_080)
    assert [u.id for u in found] == [u.id for u in whole]
    assert {u.id for u in found if u.text is None} == {u.id for u in whole if u.text is None} | {"p225_001"}


def test_of_a_transcript_file_only_the_damaged_lines_are_lost(tmp_path, write_noise) -> None:
    for number in range(4):
        write_noise(tmp_path / f"dev/84/121123/84-121123-000{number}.flac")
    lines = ["84-121123-0000 GO", "84-121123-0001 ", "84-121123-0002 CAF\xc9", "84-121123-0003\tYOU HEAR"]
    (tmp_path / "dev/84/121123/84-121123.trans.txt").write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.warns(AudioWarning, match=r"1 text file .*84-121123\.trans\.txt"):
        found = librispeech(tmp_path)
    assert [u.text for u in found] == ["GO", None, None, "YOU HEAR"]


def test_texts_are_found_whatever_the_case_of_their_names(tmp_path, write_noise) -> None:
    """As in TIMIT: names in upper case, the span of samples before the text, and converted files."""
    texts = {"SA1": "0 46797 She had.", "SA2": "0 5 and 7", "SA3": "Row 10 2000 men", "SA4": "From 0 1984 on"}
    for name, text in texts.items():
        write_noise(tmp_path / f"FCJF0/{name}.wav").rename(tmp_path / f"FCJF0/{name}.WAV.wav")
        _text(tmp_path / f"FCJF0/{name}.TXT", text)
    assert [(u.id, u.text) for u in folder(tmp_path)] == [
        ("FCJF0-SA1.WAV", "She had."),
        *((f"FCJF0-{name}.WAV", texts[name]) for name in ("SA2", "SA3", "SA4")),
    ]


def _spoil(folder: Path, write_noise) -> set[str]:
    """Files that cannot be used, but for most of which a glance at the header does not show it -> their names."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(folder / "nan.wav", np.where(np.arange(16000) == 500, np.nan, noise), 16000, subtype="FLOAT")
    soundfile.write(folder / "short.wav", noise[:1], 48000)
    soundfile.write(folder / "cut.flac", noise, 16000)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:9000])
    write_noise(folder / "half.wav")
    (folder / "half.wav").write_bytes((folder / "half.wav").read_bytes()[:1000])
    (folder / "talk.m4a").write_bytes(bytes(100))
    (folder / "gone.wav").symlink_to(folder / "nowhere.wav")
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.wav")).write_bytes((folder / "short.wav").read_bytes())
    return {"nan.wav", "short.wav", "cut.flac", "half.wav", "talk.m4a", "gone.wav", r"caf\xe9.wav"}


def test_prepare_names_every_unusable_file_and_uses_the_others(tmp_path, write_noise) -> None:
    write_noise(tmp_path / "c/s1/good.wav")
    unusable = _spoil(tmp_path / "c/s1", write_noise)
    summary = prepare("folder", tmp_path / "c", tmp_path / "out", valid=0, test=0)
    assert [u.id for u in read_manifest(tmp_path / "out/train.jsonl")] == ["s1-good"]
    assert {name for name in unusable for failure in summary.failures if f"/{name} " in str(failure)} == unusable
    assert len(summary.failures) == len(unusable)
    with pytest.raises(AudioError, match="7 audio files cannot be used") as caught:
        folder(tmp_path / "c")
    assert all(name in str(caught.value) for name in unusable) and "\n" not in str(caught.value)


def test_without_verification_only_headers_are_read(tmp_path, write_noise) -> None:
    write_noise(tmp_path / "c/s1/good.wav")
    _spoil(tmp_path / "c/s1", write_noise)
    summary = prepare("folder", tmp_path / "c", tmp_path / "out", valid=0, test=0, verify=False)
    assert summary.utterances["train"] == 4  # nan.wav, short.wav and cut.flac are not decoded


def test_the_level_of_the_speakers_can_be_chosen(tmp_path, write_noise) -> None:
    for speaker in ("FCJF0", "MDAB0"):
        write_noise(tmp_path / f"TIMIT/TRAIN/DR1/{speaker}/SA1.wav")
    with pytest.warns(AudioWarning, match=r"only one speaker, 'TRAIN' .*TRAIN/DR1/FCJF0; .*--speaker-level 2 or 3"):
        folder(tmp_path / "TIMIT")
    assert [u.speaker for u in folder(tmp_path / "TIMIT", speaker_level=3)] == ["FCJF0", "MDAB0"]
    with pytest.raises(ValueError, match="kind folder only, got 2 with vctk"):
        prepare("vctk", tmp_path, tmp_path / "out", speaker_level=2)


def test_a_stray_that_cannot_be_read_does_not_end_the_run(tmp_path, write_noise) -> None:
    write_noise(tmp_path / "anna/a.wav")
    (tmp_path / "talk.m4a").write_bytes(bytes(100))
    failures = []
    assert [u.id for u in folder(tmp_path, failures=failures)] == ["anna-a"]
    assert "talk.m4a" in str(failures[0])


def test_prepare_writes_manifests_that_read_back(vctk_080, tmp_path) -> None:
    whole = vctk(vctk_080)
    whole[-1].path.write_text("text")
    out = tmp_path / "new" / "out"
    summary = prepare("vctk", vctk_080, out, valid=0.5, test=0)
    assert _names(out) == ["speakers.json", "test.jsonl", "train.jsonl", "valid.jsonl"]
    parts = {name: read_manifest(out / f"{name}.jsonl") for name in ("train", "valid", "test")}
    assert sorted((u for part in parts.values() for u in part), key=lambda u: u.id) == whole[:-1]
    assert json.loads((out / "speakers.json").read_text()) == ["p225", "p226", "p315"]
    assert summary.speakers == ("p225", "p226", "p315")
    assert summary.utterances == {name: len(part) for name, part in parts.items()}
    assert summary.utterances == {"train": 3, "valid": 2, "test": 0}
    assert summary.hours["train"] == pytest.approx(0.3 / 3600)
    assert [str(whole[-1].path) in str(failure) for failure in summary.failures] == [True]


def test_a_file_names_what_is_held_out(vctk_080, tmp_path) -> None:
    everything = vctk(vctk_080)
    speaker = everything[0].speaker
    names = tmp_path / "held_out.txt"
    names.write_text(f"# a note\n\n{speaker}\np999\n", encoding="utf-8")
    with pytest.warns(AudioWarning, match=r"1 of the 2 names in .*held_out\.txt is no speaker .* such as 'p999'"):
        prepare("vctk", vctk_080, tmp_path / "out", valid=0, test=0, held_out=names)
    assert {u.speaker for u in read_manifest(tmp_path / "out/test.jsonl")} == {speaker}
    assert speaker not in {u.speaker for u in read_manifest(tmp_path / "out/train.jsonl")}
    names.write_text("# no speaker of this corpus\np999\n", encoding="utf-8")
    with pytest.raises(ValueError, match="names no speaker and no utterance"):
        prepare("vctk", vctk_080, tmp_path / "none", held_out=names)
    names.write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"held_out\.txt is not UTF-8 text"):
        prepare("vctk", vctk_080, tmp_path / "none", held_out=names)


def test_the_first_held_out_name_may_follow_a_byte_order_mark(vctk_080, tmp_path) -> None:
    first, last = vctk(vctk_080)[0].speaker, vctk(vctk_080)[-1].speaker
    names = tmp_path / "held_out.txt"
    names.write_text(f"{first}\n{last}\n", encoding="utf-8-sig")
    prepare("vctk", vctk_080, tmp_path / "out", valid=0, test=0, held_out=names)
    assert {u.speaker for u in read_manifest(tmp_path / "out/test.jsonl")} == {first, last}


def test_prepare_refuses_to_overwrite_and_is_all_or_nothing(vctk_080, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    prepare("vctk", vctk_080, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(FileExistsError, match="--overwrite"):
        prepare("vctk", vctk_080, out, seed=1)

    real = corpora.atomic_file

    def fails_at_the_last(path, *, overwrite):
        if path.name == "speakers.json":
            raise OSError(28, "No space left on device")
        return real(path, overwrite=overwrite)

    monkeypatch.setattr(corpora, "atomic_file", fails_at_the_last)
    with pytest.raises(OSError, match="No space"):
        prepare("vctk", vctk_080, out, seed=1, valid=0.5, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    monkeypatch.undo()
    prepare("vctk", vctk_080, out, seed=1, valid=0.5, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} != before


def test_prepare_explains_what_it_cannot_do(vctk_080, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="vctk, librispeech or folder, got 'timit'"):
        prepare("timit", vctk_080, out)  # pyright: ignore[reportArgumentType]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        prepare("folder", tmp_path / "missing", out)
    for path in vctk_080.glob("wav48/*/p*.wav"):
        path.write_text("text")
    with pytest.raises(AudioError, match="none of the 6 audio files"):
        prepare("vctk", vctk_080, out)
    assert not out.exists()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is a file"):
        prepare("vctk", vctk_080, tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "utterances", "speakers", "minutes"),
    [("vctk_mini", 579, 8, 1965 / 60), ("libri3", 188, 3, 2157 / 60)],
)
def test_real_corpora(real_data, tmp_path, name, utterances, speakers, minutes) -> None:
    summary = prepare("vctk", real_data / name, tmp_path / "out")
    assert sum(summary.utterances.values()) == utterances
    assert len(summary.speakers) == speakers
    assert sum(summary.hours.values()) * 60 == pytest.approx(minutes, abs=0.02)
    assert summary.failures == ()
    rows = [u for part in summary.utterances for u in read_manifest(tmp_path / f"out/{part}.jsonl")]
    assert all(u.path.is_file() and u.id.startswith(u.speaker) for u in rows)
    texts = sum(path.stat().st_size > 0 for path in (real_data / name / "txt").rglob("*.txt"))
    assert sum(u.text is not None for u in rows) == texts  # libri3's 19_039 has none
    valid = read_manifest(tmp_path / "out/valid.jsonl")
    assert {u.speaker for u in valid} == set(summary.speakers)
