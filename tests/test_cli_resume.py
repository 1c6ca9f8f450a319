"""--resume: an interrupted command goes on where it was, its result is that of an uninterrupted one, and others' work
under the same names is refused."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vqaudio import SpeechVQVAE
from vqaudio.cli.main import main

Run = Callable[..., int]


@pytest.fixture
def run(tiny_model_dir) -> Run:
    """(verb, *arguments) -> exit code."""
    return lambda verb, *rest: main([verb, *map(str, rest), "--model", str(tiny_model_dir)])


def _noise(path: Path, seed: int) -> None:
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 300), 16000)


@pytest.fixture
def speech(tmp_path) -> Path:
    """Four utterances."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for seed, name in enumerate("abcd"):
        _noise(folder / f"{name}.wav", seed)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _interrupt(patch: pytest.MonkeyPatch, method: str, at: int) -> list[object]:
    """Ctrl-C in the `at`-th call of a method of the model -> a list that gets an entry with each call."""
    original, calls = getattr(SpeechVQVAE, method), []

    def interrupted(self: SpeechVQVAE, *args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == at:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    patch.setattr(SpeechVQVAE, method, interrupted)
    return calls


@pytest.mark.parametrize("name", ["t.jsonl", "t"])
def test_tokenize_computes_no_utterance_twice(tmp_path, monkeypatch, run: Run, speech: Path, name: str) -> None:
    assert run("tokenize", speech, "--out", tmp_path / "whole.jsonl") == 0
    calls = _interrupt(monkeypatch, "tokenize", 3)
    one_by_one = ("--resume", "--threads", 1)  # several threads begin some utterances ahead
    assert run("tokenize", speech, "--out", tmp_path / name, *one_by_one) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"speech", "whole.jsonl", "t.resume.jsonl"}
    with (tmp_path / "t.resume.jsonl").open("ab") as journal:
        journal.write(b'{"id": "half a li')  # as a killed process may leave it
    moved = speech.rename(tmp_path / "elsewhere")
    assert run("tokenize", moved, "--out", tmp_path / name, *one_by_one) == 0
    assert len(calls) == 3 + 2
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "whole.jsonl", name}
    if name == "t.jsonl":
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert run("tokenize", moved, "--out", tmp_path / name, *one_by_one) == 0  # finished: nothing is left to do
    assert len(calls) == 3 + 2


def test_tokenize_does_not_take_other_audio_under_the_same_name(tmp_path, monkeypatch, run: Run, speech: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _interrupt(patch, "tokenize", 3)
        assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--resume") == 130
    _noise(speech / "a.wav", 99)
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--resume") == 0
    assert run("tokenize", speech, "--out", tmp_path / "whole.jsonl") == 0
    assert (tmp_path / "t.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_tokenize_refuses_finished_tokens_of_other_utterances(tmp_path, capsys, run: Run, speech: Path) -> None:
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl") == 0
    before = (tmp_path / "t.jsonl").read_bytes()
    (speech / "d.wav").unlink()
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--resume") == 2
    assert "has tokens of 'd', which is not among the inputs" in capsys.readouterr().err
    assert (tmp_path / "t.jsonl").read_bytes() == before


@pytest.mark.parametrize("verb", ["decode", "convert"])
def test_audio_that_is_there_is_not_decoded_again(tmp_path, monkeypatch, run: Run, speech: Path, verb: str) -> None:
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl") == 0
    source = tmp_path / "t.jsonl" if verb == "decode" else speech
    arguments = (verb, source, "--speaker", "anna", "--batch-size", 1, "--out", tmp_path / "o")
    assert run(*arguments) == 0
    whole = _files(tmp_path / "o")
    shutil.rmtree(tmp_path / "o")
    with pytest.MonkeyPatch.context() as patch:
        _interrupt(patch, "decode_batch", 3)
        assert run(*arguments) == 130
    assert len(_files(tmp_path / "o")) == 2
    calls = _interrupt(monkeypatch, "decode_batch", 0)
    assert run(*arguments, "--resume") == 0
    assert _files(tmp_path / "o") == whole and len(calls) == 2


@pytest.mark.parametrize("other", [("--speaker", "bert"), ("--seed", 1), ("--temperature", 0.5)])
def test_audio_of_another_command_is_refused(tmp_path, capsys, run: Run, speech: Path, other) -> None:
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl") == 0
    arguments = ("decode", tmp_path / "t.jsonl", "--out", tmp_path / "o", "--speaker", "anna")
    assert run(*arguments) == 0
    before = _files(tmp_path / "o")
    capsys.readouterr()
    assert run(*arguments, "--resume", *other) == 2
    assert ".wav exists and is not what this command writes" in capsys.readouterr().err
    assert _files(tmp_path / "o") == before


def test_resume_and_overwrite_exclude_each_other(tmp_path, capsys, run: Run, speech: Path) -> None:
    for verb, *rest in (("tokenize",), ("convert", "--speaker", "anna")):
        assert run(verb, speech, "--out", tmp_path / "o", *rest, "--resume", "--overwrite") == 2
        assert "give one of them" in capsys.readouterr().err


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", ["[1]\n", '{"audio":[1]}\n', '{"a":1}\n', "\0" * 64, "a diary\nof mine", "hello"])
def test_a_journal_without_a_valid_line_is_refused(tmp_path, capsys, run: Run, speech: Path, content: str) -> None:
    journal = tmp_path / "t.resume.jsonl"
    journal.write_text(content)
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--resume") == 2
    assert f"{journal} has no row of an interrupted run; delete it" in capsys.readouterr().err
    assert journal.read_text() == content


def test_damaged_lines_of_a_journal_are_computed_again(tmp_path, monkeypatch, run: Run, speech: Path) -> None:
    assert run("tokenize", speech, "--out", tmp_path / "whole.jsonl") == 0
    with pytest.MonkeyPatch.context() as patch:
        _interrupt(patch, "tokenize", 3)
        assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--resume", "--threads", 1) == 130
    journal = tmp_path / "t.resume.jsonl"
    first, second = journal.read_text().splitlines()
    audio, wrong = _digest(speech / "b.wav"), {**json.loads(second), "codes": [0, 1]}
    lines = [first, "[1]", '{"audio":[1]}', "\0\0", json.dumps({"audio": audio}), json.dumps(wrong), second[:-9]]
    journal.write_text("\n".join(lines) + "\n")
    calls = _interrupt(monkeypatch, "tokenize", 0)
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--resume", "--threads", 1) == 0
    assert (tmp_path / "t.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes() and len(calls) == 3


def test_the_first_line_of_a_killed_process_may_be_incomplete(tmp_path, run: Run, speech: Path) -> None:
    (tmp_path / "t.resume.jsonl").write_text('{"id": "a", "spea')
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--resume") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"speech", "t.jsonl"}


def test_a_read_only_file_system_is_named(tmp_path, capsys, monkeypatch, run: Run, speech: Path) -> None:
    original = Path.open

    def read_only(path: Path, *args: Any, **kwargs: Any) -> object:
        if path.name == "t.resume.jsonl":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--resume") == 2
    assert f"{os.strerror(errno.EROFS)}; choose a folder" in capsys.readouterr().err


def test_two_runs_at_once_on_one_output_are_refused(tmp_path, capsys, run: Run, speech: Path) -> None:
    command, codes = ("tokenize", speech, "--out", tmp_path / "t.jsonl", "--resume"), []
    original = SpeechVQVAE.tokenize

    def meanwhile(self: SpeechVQVAE, *args: Any, **kwargs: Any) -> object:
        if not codes:
            codes.append(None)
            codes[0] = run(*command)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpeechVQVAE, "tokenize", meanwhile)
        assert run(*command) == 0
    assert codes == [2] and "another process is writing" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"speech", "t.jsonl"}


@pytest.mark.parametrize("name", ["t.jsonl", "t"])
@pytest.mark.parametrize("replaced", [False, True], ids=["written", "replaced"])
def test_finished_tokens_of_other_audio_are_computed_again(
    tmp_path, monkeypatch, run: Run, speech: Path, name: str, replaced: bool
) -> None:
    assert run("tokenize", speech, "--out", tmp_path / name) == 0
    if replaced:  # by a file that is older than the tokens
        _noise(tmp_path / "other.wav", 99)
        os.utime(tmp_path / "other.wav", ns=(0, 0))
        (tmp_path / "other.wav").replace(speech / "a.wav")
    else:
        _noise(speech / "a.wav", 99)
    calls = _interrupt(monkeypatch, "tokenize", 0)
    assert run("tokenize", speech, "--out", tmp_path / name, "--resume") == 0
    assert len(calls) == 1
    assert run("tokenize", speech, "--out", tmp_path / "whole.jsonl") == 0
    assert main(["reformat", str(tmp_path / name), "--out", str(tmp_path / "again.jsonl")]) == 0
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.fixture
def decoded(tmp_path, run: Run) -> Path:
    """A token file of one long utterance, and beside it, the folder o with its audio."""
    (tmp_path / "long").mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(tmp_path / "long" / "a.wav", noise, 16000)
    assert run("tokenize", tmp_path / "long", "--out", tmp_path / "t.jsonl") == 0
    assert run("decode", tmp_path / "t.jsonl", "--out", tmp_path / "o", "--speaker", "anna") == 0
    return tmp_path / "t.jsonl"


def _decode_again(run: Run, tokens: Path, *options: object) -> int:
    return run("decode", tokens, "--out", tokens.with_name("o"), "--speaker", "anna", "--resume", *options)


def test_audio_with_other_samples_at_its_end_is_refused(capsys, run: Run, decoded: Path) -> None:
    path = decoded.with_name("o") / "a.wav"
    content = path.read_bytes()
    path.write_bytes(content[:-3000] + bytes(3000))  # 1500 of its 4000 samples, which are the end of the file
    assert soundfile.info(path).frames == 4000
    assert _decode_again(run, decoded) == 2
    assert "is not what this command writes" in capsys.readouterr().err


def test_audio_of_codes_that_differ_at_their_end_is_refused(capsys, run: Run, decoded: Path) -> None:
    row = json.loads(decoded.read_text())
    row["codes"][-1] = 0 if row["codes"][-1] else 1
    decoded.write_text(json.dumps(row) + "\n")
    assert _decode_again(run, decoded) == 2
    assert "is not what this command writes" in capsys.readouterr().err


def test_audio_of_another_precision_is_refused_and_other_threads_are_not(capsys, run: Run, decoded: Path) -> None:
    assert _decode_again(run, decoded, "--threads", 2) == 0
    assert _decode_again(run, decoded, "--precision", "bf16") == 2
    assert "is not what this command writes" in capsys.readouterr().err


def test_audio_without_a_record_is_accepted(run: Run, decoded: Path) -> None:
    path = decoded.with_name("o") / "a.wav"
    samples, sample_rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples, sample_rate)  # as earlier versions wrote it
    assert _decode_again(run, decoded) == 0


def test_tokenize_does_not_replace_shards(tmp_path, capsys, run: Run, speech: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "00000-0123456789ab.parquet").write_bytes(b"")
    assert run("tokenize", speech, "--out", tmp_path / "t", "--resume") == 2
    assert "is a folder of Parquet shards" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["00000-0123456789ab.parquet"]
