"""Every verb, run in this process with a tiny model of random weights: its output equals that of the library."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vqaudio
from vqaudio.cli.main import main
from vqaudio.data.audio import read_audio, to_int16
from vqaudio.data.manifest import Utterance, read_manifest
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.files import read_tokens, write_tokens
from vqaudio.tokens.rows import TokenRow

REPOSITORY = Path(__file__).resolve().parents[1]
MINI = REPOSITORY / "egs" / "mini"
CLIP = 330  # samples, so that decoding takes milliseconds


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """A folder with anna/a.wav, bert/b.wav and zoe/c.wav, clips of real speech; zoe is not in the tiny model."""
    folder = tmp_path_factory.mktemp("speech")
    for i, (name, utterance) in enumerate(
        zip(("anna/a", "bert/b", "zoe/c"), read_manifest(MINI / "test.jsonl"), strict=False)
    ):
        (folder / name).parent.mkdir()
        wav = read_audio(utterance.path, 16000)[8000 : 8000 + CLIP + 100 * i]
        soundfile.write(folder / f"{name}.wav", wav, 16000)
    return folder


@pytest.fixture
def run(tiny_model_dir, capsys) -> Callable[..., tuple[int, str, str]]:
    """(verb, *arguments) -> exit code, standard output, standard error; --model is added."""

    def call(verb: str, *arguments: object) -> tuple[int, str, str]:
        model = ["--model", str(tiny_model_dir)] if verb in ("tokenize", "decode", "convert") else []
        code = main([verb, *map(str, arguments), *model])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def _same(path: Path, expected) -> bool:
    """Whether a file contains exactly the samples (T,) in [-1, 1], rounded to 16 bits."""
    wav, rate = soundfile.read(path, dtype="int16")
    return rate == 16000 and np.array_equal(wav, to_int16(expected.numpy()))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("target", ["t.jsonl", "t", "t.parquet"])
def test_tokenize_then_decode(tmp_path, run, speech, tiny_model, target) -> None:
    if target == "t.parquet":
        pytest.importorskip("pyarrow")
    code, out, err = run("tokenize", speech / "anna", speech / "bert" / "b.wav", "--out", tmp_path / target)
    assert (code, err) == (0, "")
    assert "utterances    2 of 2" in out
    assert "8000 bits per second (log2 16 = 4 bits per code)" in out
    assert re.search(r"RTF [0-9.e+-]+ on cpu \(audio seconds per wall second\)", out)
    rows = list(read_tokens(tmp_path / target))
    assert [row.id for row in rows] == ["a", "b"]
    for row, path in zip(rows, ("anna/a.wav", "bert/b.wav"), strict=True):
        assert row.tokens.codes.equal(tiny_model.tokenize(speech / path).codes)
    arguments = ("decode", tmp_path / target, "--out", tmp_path / "wav", "--seed", 3, "--temperature", 0.5)
    code, out, err = run(*arguments, "--speaker", "carl")
    assert (code, err) == (0, "")
    assert _names(tmp_path / "wav") == ["a.wav", "b.wav"]
    for row in rows:
        expected = tiny_model.decode(row.tokens, "carl", seed=3, temperature=0.5)
        assert _same(tmp_path / "wav" / f"{row.id}.wav", expected)


def test_decode_uses_each_rows_own_speaker(tmp_path, run, speech, tiny_model) -> None:
    run("tokenize", speech, "--out", tmp_path / "t.jsonl")
    code, out, err = run("decode", tmp_path / "t.jsonl", "--out", tmp_path / "wav", "--temperature", 0)
    assert code == 1  # for zoe's
    assert err == (
        "error: zoe-c has speaker 'zoe', who is not in this model; "
        "pass --speaker (vqaudio info MODEL lists the speakers)\n"
    )
    assert _names(tmp_path / "wav") == ["anna-a.wav", "bert-b.wav"]
    assert "2 audio files" in out
    for name, speaker in (("anna/a", "anna"), ("bert/b", "bert")):
        expected = tiny_model.convert(speech / f"{name}.wav", speaker, temperature=0)
        assert _same(tmp_path / "wav" / f"{name.replace('/', '-')}.wav", expected)


def test_decode_of_rows_without_a_speaker(tmp_path, run, speech) -> None:
    run("tokenize", speech / "anna" / "a.wav", "--out", tmp_path / "t.jsonl")
    code, _, err = run("decode", tmp_path / "t.jsonl", "--out", tmp_path / "wav")
    assert code == 1
    assert err == "error: a has no speaker; pass --speaker (vqaudio info MODEL lists the speakers)\n"
    assert not (tmp_path / "wav").exists()


def test_convert_to_one_file(tmp_path, run, speech, tiny_model) -> None:
    code, out, err = run("convert", speech / "anna" / "a.wav", "--speaker", "bert", "--out", tmp_path / "x.flac")
    assert (code, err) == (0, "")
    expected = tiny_model.convert(speech / "anna" / "a.wav", "bert")
    assert _same(tmp_path / "x.flac", expected)
    assert soundfile.info(tmp_path / "x.flac").format == "FLAC"
    assert "1 audio files" in out


def test_convert_to_folders(tmp_path, run, speech, tiny_model) -> None:
    one, several, every = tmp_path / "deep" / "one", tmp_path / "several", tmp_path / "all"
    assert run("convert", speech, "--speaker", "carl", "--out", one)[0] == 0
    assert _names(one) == ["anna-a.wav", "bert-b.wav", "zoe-c.wav"]
    clip = speech / "anna" / "a.wav"
    assert run("convert", clip, "--speaker", "bert", "carl", "bert", "--out", several, "--batch-size", 1)[0] == 0
    assert _names(several) == ["a-bert.wav", "a-carl.wav"]
    assert run("convert", clip, "--speaker", "all", "--out", every)[0] == 0
    assert _names(every) == ["a-anna.wav", "a-bert.wav", "a-carl.wav"]
    for name in tiny_model.speakers:
        expected = tiny_model.convert(clip, name)
        assert _same(every / f"a-{name}.wav", expected)
    assert (several / "a-carl.wav").read_bytes() == (one / "anna-a.wav").read_bytes()  # independent of the batch size


def test_prepare_tokenize_and_info(tmp_path, run, speech) -> None:
    code, out, err = run("prepare", "folder", speech, "--out", tmp_path / "m", "--valid", 0, "--test", 0)
    assert (code, err) == (0, "")
    assert "3 utterances" in out
    assert json.loads((tmp_path / "m" / "speakers.json").read_text()) == ["anna", "bert", "zoe"]
    assert run("tokenize", tmp_path / "m" / "train.jsonl", "--out", tmp_path / "t")[0] == 0
    assert [row.speaker for row in read_tokens(tmp_path / "t")] == ["anna", "bert", "zoe"]
    code, out, err = run("info", tmp_path / "t")
    assert (code, err) == (0, "")
    assert "3, 0.1 s of audio" in out
    assert "3: anna, bert, zoe" in out


def test_info_is_the_same_for_every_format(tmp_path, run, speech) -> None:
    pytest.importorskip("pyarrow")
    printed = []
    for target in ("t.jsonl", "t.parquet", "t"):
        assert run("tokenize", speech, "--out", tmp_path / target)[0] == 0
        code, out, err = run("info", tmp_path / target)
        assert (code, err) == (0, "")
        printed.append(out)
    assert printed[0] == printed[1] == printed[2] and "3: anna, bert, zoe" in printed[0]


def test_parquet_without_pyarrow_is_refused_before_any_work(tmp_path, run, speech, monkeypatch) -> None:
    (tmp_path / "old.parquet").write_text("whatever it is")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    for arguments in (
        ("tokenize", speech, "--out", tmp_path / "t.parquet"),
        ("decode", tmp_path / "old.parquet", "--out", tmp_path / "wav"),
        ("info", tmp_path / "old.parquet"),
        ("pack", tmp_path / "old.parquet", "--out", tmp_path / "t.vqa"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert err == "error: Parquet files need pyarrow: pip install 'vqaudio[bulk]'\n"
    assert _names(tmp_path) == ["old.parquet"]


def test_prepare_names_the_files_that_it_skipped(tmp_path, run, speech) -> None:
    (tmp_path / "c" / "s").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "c" / "s" / f"{i}.wav").write_bytes((speech / "anna" / "a.wav").read_bytes())
    (tmp_path / "c" / "s" / "bad.wav").write_text("hello")
    code, _, err = run("prepare", "folder", tmp_path / "c", "--out", tmp_path / "m")
    assert code == 1
    assert err.count("\n") == 1
    assert "bad.wav is not audio" in err
    assert sum(len(read_manifest(tmp_path / "m" / f"{name}.jsonl")) for name in ("train", "valid", "test")) == 3


def test_one_bad_name_costs_only_its_own_file(tmp_path, run, speech) -> None:
    folder = tmp_path / "c" / "s"
    folder.mkdir(parents=True)
    good = (speech / "anna" / "a.wav").read_bytes()
    for name in (b"good.wav", b"caf\xe9.wav", b"x" * 251 + b".wav"):
        Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(good)
    code, _, err = run("tokenize", tmp_path / "c", "--out", tmp_path / "t")
    assert code == 1 and err.count("\n") == 2 and r"caf\xe9.wav has a name that is not UTF-8" in err
    assert "at most 255 are allowed" in err and _names(tmp_path / "t") == ["index.jsonl", "s-good.npy"]
    code, _, err = run("tokenize", tmp_path / "c", "--out", tmp_path / "t.jsonl")
    assert code == 1 and [row.id for row in read_tokens(tmp_path / "t.jsonl")] == ["s-good", f"s-{'x' * 251}"]
    code, _, err = run("decode", tmp_path / "t.jsonl", "--speaker", "anna", "--out", tmp_path / "wav")
    assert code == 1 and "at most 245" in err and _names(tmp_path / "wav") == ["s-good.wav"]
    code, _, err = run("convert", tmp_path / "c", "--speaker", "bert", "--out", tmp_path / "bert")
    assert code == 1 and _names(tmp_path / "bert") == ["s-good.wav"]


@pytest.mark.filterwarnings("default::vqaudio.data.audio.AudioWarning")
def test_all_verbs_find_the_same_audio_and_speakers(tmp_path, run, speech) -> None:
    root = tmp_path / "c"
    (root / "anna" / "day1").mkdir(parents=True)
    (root / "anna" / "day1" / "a.wav").write_bytes((speech / "anna" / "a.wav").read_bytes())
    (root / "zoe").symlink_to(speech / "zoe")
    (root / "anna" / "loop").symlink_to(root)
    assert run("prepare", "folder", root, "--out", tmp_path / "m", "--valid", 0, "--test", 0)[0] == 0
    code, _, err = run("tokenize", root, "--out", tmp_path / "t.jsonl")
    assert code == 0 and "warning: 1 link to folders that are read already was not followed, such as" in err
    expected = [("anna-day1-a", "anna"), ("zoe-c", "zoe")]
    assert [(row.id, row.speaker) for row in read_tokens(tmp_path / "t.jsonl")] == expected
    assert [(u.id, u.speaker) for u in read_manifest(tmp_path / "m/train.jsonl")] == expected


def test_info_about_a_model(run, tiny_model_dir, tiny_model) -> None:
    code, out, err = run("info", tiny_model_dir)
    assert (code, err) == (0, "")
    facts = {line[:24].rstrip(): line[24:] for line in out.splitlines()}  # one column beyond the longest name
    assert facts["model"] == tiny_model.fingerprint
    assert facts["look-ahead"] == "11 samples, 0.7 ms"
    assert facts["decoder receptive field"].endswith("ms")
    assert "3: anna, bert, carl" in out


def test_existing_output_needs_overwrite(tmp_path, run, speech) -> None:
    clip = speech / "anna" / "a.wav"
    commands = [
        (("tokenize", clip, "--out", tmp_path / "t.jsonl"), tmp_path / "t.jsonl"),
        (("tokenize", clip, "--out", tmp_path / "t"), tmp_path / "t" / "a.npy"),
        (("decode", tmp_path / "t.jsonl", "--speaker", "bert", "--out", tmp_path / "d"), tmp_path / "d" / "a.wav"),
        (("convert", clip, "--speaker", "bert", "--out", tmp_path / "c"), tmp_path / "c" / "a.wav"),
        (("convert", clip, "--speaker", "bert", "--out", tmp_path / "x.wav"), tmp_path / "x.wav"),
        (("prepare", "folder", speech, "--out", tmp_path / "m"), tmp_path / "m" / "train.jsonl"),
    ]
    for command, output in commands:
        assert run(*command)[0] == 0
        first = output.read_bytes()
        code, out, err = run(*command)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.endswith("exists already; pass --overwrite to replace it\n")
        output.write_bytes(b"spoilt")
        assert run(*command, "--overwrite")[0] == 0, command
        assert output.read_bytes() == first


def test_another_models_tokens_are_refused_with_both_fingerprints(tmp_path, run, tiny_model) -> None:
    tokens = tiny_model.tokenize(np.zeros(100, dtype=np.float32))
    own = TokenRow("own", "anna", tokens)
    foreign = TokenRow("foreign", "anna", Tokens(tokens.codes, 100, 16000, 8, "beefbeefbeef"))
    write_tokens(tmp_path / "t.jsonl", [own, foreign])
    code, _, err = run("decode", tmp_path / "t.jsonl", "--out", tmp_path / "wav")
    assert code == 2
    assert err.startswith("error: foreign: ")
    assert "beefbeefbeef" in err
    assert tiny_model.fingerprint in err
    assert not (tmp_path / "wav").exists()


def test_all_utterances_of_a_manifest_are_tokenized(tmp_path, run) -> None:
    """N = ceil(T / hop) for every file in the test split of the embedded corpus."""
    assert run("tokenize", MINI / "test.jsonl", "--out", tmp_path / "t.jsonl")[0] == 0
    rows, utterances = list(read_tokens(tmp_path / "t.jsonl")), read_manifest(MINI / "test.jsonl")
    for row, utterance in zip(rows, utterances, strict=True):
        frames = soundfile.info(utterance.path).frames
        assert (row.id, row.speaker) == (utterance.id, utterance.speaker)
        assert (row.tokens.num_samples, len(row.tokens.codes)) == (frames, -(-frames // 8))


def test_progress_is_shown_on_a_terminal_only(tmp_path, run, speech, monkeypatch) -> None:
    assert run("tokenize", speech, "--out", tmp_path / "a.jsonl")[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert "3/3" in run("tokenize", speech, "--out", tmp_path / "b.jsonl")[2]


def test_ids_of_a_manifest_are_independent_of_file_names(tmp_path, run, speech, write_manifest) -> None:
    rows = [Utterance(id, speech / "anna" / "a.wav", "anna", 0.02) for id in ("first", "second")]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert run("tokenize", tmp_path / "m.jsonl", "--out", tmp_path / "t")[0] == 0
    assert _names(tmp_path / "t") == ["first.npy", "index.jsonl", "second.npy"]


def test_the_entry_point_does_not_import_torch() -> None:
    """`--help` in a new process: exit code 0, all verbs are listed, and torch is not imported."""
    program = (
        "import sys; from vqaudio.cli.main import main; "
        "code = main(['--help']); sys.exit(code or 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in ("prepare", "tokenize", "decode", "convert", "info"):
        assert verb in done.stdout
    command = [sys.executable, "-m", "vqaudio", "decode", "missing.jsonl", "--out", "x.wav", "--nonsense"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--nonsense" in done.stderr


def test_public_names_can_be_imported() -> None:
    assert all(getattr(vqaudio, name).__name__ == name for name in vqaudio.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = vqaudio.nonsense  # pyright: ignore[reportAttributeAccessIssue]
