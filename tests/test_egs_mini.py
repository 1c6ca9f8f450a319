"""The embedded corpus egs/mini: what its README promises, and that prepare.py makes it again."""

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile as sf

MINI = Path(__file__).resolve().parents[1] / "egs" / "mini"
SPLITS = ("train", "valid", "test")
VOWELS = {"aa", "ae", "ah", "ao", "aw", "ax", "ay", "eh", "er", "ey", "ih", "iy", "ow", "oy"}
VOWELS |= {"uh", "uw"}


def rows(split: str) -> list[dict]:
    return [json.loads(line) for line in (MINI / f"{split}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def utterances() -> list[dict]:
    return [row for split in SPLITS for row in rows(split)]


@pytest.fixture(scope="module")
def wavs(utterances) -> dict[str, np.ndarray]:
    """id -> (T,) float64, every file read once."""
    read = {}
    for row in utterances:
        info = sf.info(MINI / row["path"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16"), row["id"]
        read[row["id"]] = sf.read(MINI / row["path"])[0]
    return read


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    """egs/mini/prepare.py as a module; it is a script outside the package."""
    spec = importlib.util.spec_from_file_location("egs_mini_prepare", MINI / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up here
    spec.loader.exec_module(module)
    return module


def test_size_and_speakers(utterances):
    files = [path for path in MINI.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 7_000_000
    speakers = json.loads((MINI / "speakers.json").read_text())
    assert len(speakers) == 8
    assert speakers == sorted({row["speaker"] for row in utterances})
    assert speakers == sorted(path.name for path in (MINI / "wav16").iterdir())


def test_manifests_name_every_file_once(utterances):
    listed = [row["path"] for row in utterances]
    assert sorted(listed) == sorted(str(path.relative_to(MINI)) for path in MINI.glob("wav16/*/*.flac"))
    for row in utterances:
        assert row["path"] == f"wav16/{row['speaker']}/{row['id']}.flac"
        text = MINI / "txt" / row["speaker"] / f"{row['id']}.txt"
        assert text.read_text().strip() == row["text"]


def test_splits_share_no_sentence_and_have_every_speaker():
    sentences = [{row["text"] for row in rows(split)} for split in SPLITS]
    numbers = [{row["id"][-3:] for row in rows(split)} for split in SPLITS]
    for parts in (sentences, numbers):
        assert sum(len(part) for part in parts) == len(set().union(*parts)) == 20
    for split, part in zip(SPLITS, sentences, strict=True):
        pairs = {(row["speaker"], row["text"]) for row in rows(split)}
        assert len(pairs) == len(rows(split)) == 8 * len(part)


def test_audio_agrees_with_the_manifest(utterances, wavs):
    for row in utterances:
        wav = wavs[row["id"]]
        assert len(wav) / 16_000 == row["seconds"], row["id"]
        assert 0.2 < np.abs(wav).max() < 0.95, row["id"]
        assert abs(wav.mean()) < 1e-3, row["id"]
        assert 0.05 < np.sqrt(np.mean(wav**2)) < 0.15, row["id"]
        assert 1.5 < row["seconds"] < 5, row["id"]
    assert 300 < sum(row["seconds"] for row in utterances) < 420


def test_phones_fill_the_audio_and_fit_it(utterances, wavs):
    spoken_by_flite = [row for row in utterances if row["speaker"].startswith("flite_")]
    assert len(list(MINI.glob("phones/*/*.tsv"))) == len(spoken_by_flite) == 80
    for row in spoken_by_flite:
        path = MINI / "phones" / row["speaker"] / f"{row['id']}.tsv"
        with path.open(newline="") as file:
            phones = [
                (float(phone["start"]), float(phone["end"]), phone["phone"])
                for phone in csv.DictReader(file, delimiter="\t")
            ]
        assert phones[0][0] == 0 and all(start < end for start, end, _ in phones), row["id"]
        assert [end for _, end, _ in phones[:-1]] == [start for start, _, _ in phones[1:]]
        assert row["seconds"] - 0.001 <= phones[-1][1] <= row["seconds"], row["id"]
        # vowels are 20 dB above silences; an offset of 50 ms would mix loud and soft samples
        power = {True: [], False: []}
        for start, end, phone in phones:
            if phone in VOWELS or phone == "pau":
                part = wavs[row["id"]][round(start * 16_000) : round(end * 16_000)]
                power[phone in VOWELS].append(np.mean(part**2))
        assert np.median(power[True]) > 100 * np.mean(power[False]), row["id"]


@pytest.mark.skipif(
    not (shutil.which("flite") and shutil.which("espeak-ng")),
    reason="needs flite and espeak-ng (apt-get install espeak-ng flite)",
)
def test_prepare_makes_the_same_audio_again(prepare, tmp_path, wavs):
    versions = "".join(  # flite prints its version and ends with status 1
        subprocess.run([program, "--version"], check=False, capture_output=True, text=True).stdout
        for program in ("espeak-ng", "flite")
    )
    if "text-to-speech: 1.51 " not in versions or "flite-2.2" not in versions:
        pytest.skip(f"the corpus was made with espeak-ng 1.51 and flite 2.2, here: {versions}")
    text = prepare.read_sentences()[0]
    for voice in prepare.VOICES:
        again = prepare.level(prepare.synthesise(voice, text, tmp_path).wav) / 32768
        stored = wavs[f"{voice.name}_001"]
        assert len(again) == len(stored), voice.name
        assert np.abs(again - stored).max() <= 1 / 32768, voice.name


def test_prepare_refuses_to_overwrite(prepare, tmp_path):
    (tmp_path / "train.jsonl").write_text("mine")
    with pytest.raises(prepare.PrepareError, match=r"already contains train[.]jsonl; add --overwrite"):
        prepare.prepare(tmp_path, overwrite=False)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_prepare_leaves_the_old_corpus_when_a_program_is_missing(prepare, tmp_path, monkeypatch):
    (tmp_path / "train.jsonl").write_text("mine")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(prepare.PrepareError, match="apt-get install espeak-ng flite"):
        prepare.prepare(tmp_path, overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_prepare_refuses_phones_that_do_not_fit(prepare):
    good = "pau:0.200 hh:0.300 pau:0.500"
    assert prepare.parse_phones(good, 0.49876) == [
        (0.0, 0.2, "pau"), (0.2, 0.3, "hh"), (0.3, 0.498, "pau"),
    ]  # fmt: skip
    for printed, seconds in ((good, 0.8), (good, 0.2), ("", 0.5), ("pau:0.2 hh:0.5", 0.5)):
        with pytest.raises(prepare.PrepareError, match="do not fit"):
            prepare.parse_phones(printed, seconds)
    with pytest.raises(prepare.PrepareError, match="do not increase"):
        prepare.parse_phones("pau:0.4 hh:0.300 pau:0.5", 0.5)
