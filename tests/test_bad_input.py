"""Wrong usage and bad files: one clear sentence, the right exit code, no partial output, and all other files done."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqaudio.cli.main import main
from vqaudio.tokens.files import read_tokens

RATE = 16000


@pytest.fixture
def run(tiny_model_dir, capsys) -> Callable[..., tuple[int, list[str]]]:
    """(verb, *arguments) -> exit code, lines of standard error; --model is the tiny model by default."""

    def call(verb: str, *arguments: object) -> tuple[int, list[str]]:
        known = verb not in ("tokenize", "decode", "convert") or "--model" in arguments
        code = main([verb, *map(str, arguments), *([] if known else ["--model", str(tiny_model_dir)])])
        return code, capsys.readouterr().err.splitlines()

    return call


def _noise(path: Path, rate: int = RATE, channels: int = 1, subtype: str = "PCM_16", seconds: float = 0.02) -> Path:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


@pytest.fixture
def good(tmp_path) -> Path:
    """A valid audio file."""
    return _noise(tmp_path / "good.wav")


def _text(path: Path) -> None:
    path.write_text("this is no audio\n")


def _empty(path: Path) -> None:
    path.touch()


def _no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), RATE)


def _nan(path: Path) -> None:
    soundfile.write(path, np.array([0.0, 0.1, np.nan, 0.2]), RATE, subtype="FLOAT")


def _cut_off(path: Path) -> None:
    soundfile.write(path, np.zeros(5000), RATE, format="FLAC")
    path.write_bytes(path.read_bytes()[:60])


def _half_a_sample(path: Path) -> None:
    soundfile.write(path, np.zeros(1), 4 * RATE)


def _missing(path: Path) -> None:
    assert not path.exists()


BAD_AUDIO = pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_missing, "does not exist"),
        (_text, "is not audio that can be read"),
        (_empty, "is empty (0 bytes)"),
        (_no_samples, "has no samples"),
        (_nan, "has NaN or infinite samples"),
        (_cut_off, "bad.wav"),
        (_half_a_sample, "is too short"),
    ],
)


@BAD_AUDIO
@pytest.mark.parametrize("target", ["t.jsonl", "t"])
def test_tokenize_names_the_bad_file_and_does_the_others(tmp_path, run, good, spoil, message, target) -> None:
    spoil(tmp_path / "bad.wav")
    code, err = run("tokenize", tmp_path / "bad.wav", good, "--out", tmp_path / target)
    assert code == 1
    assert len(err) == 1
    assert err[0].startswith(f"error: {tmp_path / 'bad.wav'} ")
    assert message in err[0]
    assert [row.id for row in read_tokens(tmp_path / target)] == ["good"]


@BAD_AUDIO
def test_convert_names_the_bad_file_and_does_the_others(tmp_path, run, good, spoil, message) -> None:
    spoil(tmp_path / "bad.wav")
    code, err = run("convert", tmp_path / "bad.wav", good, "--speaker", "anna", "bert", "--out", tmp_path / "out")
    assert code == 1
    assert len(err) == 1
    assert message in err[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good-anna.wav", "good-bert.wav"]


@pytest.mark.parametrize(
    "arguments",
    [("tokenize", "--out", "t.jsonl"), ("tokenize", "--out", "t"), ("convert", "--speaker", "anna", "--out", "c")],
)
def test_where_no_input_can_be_used_nothing_is_written(tmp_path, run, monkeypatch, arguments) -> None:
    monkeypatch.chdir(tmp_path)
    _text(tmp_path / "bad.wav")
    verb, *flags = arguments
    code, err = run(verb, "bad.wav", *flags)
    assert code == 1
    assert err[0].startswith("error: bad.wav is not audio")
    assert err[1:] == ["error: none of the 1 inputs can be used; nothing was written"]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.wav"]


def test_a_manifest_that_names_a_missing_file(tmp_path, run, good) -> None:
    rows = [{"id": name, "path": f"{name}.wav", "speaker": "anna", "seconds": 1.0} for name in ("gone", "good")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, err = run("tokenize", tmp_path / "m.jsonl", "--out", tmp_path / "t.jsonl")
    assert code == 1
    assert len(err) == 1
    assert "gone.wav does not exist" in err[0]
    assert [row.id for row in read_tokens(tmp_path / "t.jsonl")] == ["good"]


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(8000, 1, "PCM_16"), (96000, 1, "PCM_16"), (RATE, 1, "PCM_24"), (RATE, 6, "PCM_16"), (44100, 2, "FLOAT")],
)
def test_unusual_files_work(tmp_path, run, rate, channels, subtype) -> None:
    _noise(tmp_path / "a.wav", rate, channels, subtype)
    code, err = run("tokenize", tmp_path / "a.wav", "--out", tmp_path / "t.jsonl")
    assert (code, err) == (0, [])
    (row,) = read_tokens(tmp_path / "t.jsonl")
    assert (row.tokens.num_samples, row.tokens.sample_rate, len(row.tokens.codes)) == (320, RATE, 40)
    assert run("convert", tmp_path / "a.wav", "--speaker", "anna", "--out", tmp_path / "b.wav")[0] == 0
    assert soundfile.info(tmp_path / "b.wav").frames == 320


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tokenize nothing --out t.jsonl", "there is no audio in nothing"),
        ("tokenize --out t.jsonl", "give at least one audio file, folder or manifest"),
        ("tokenize bad.jsonl --out t.jsonl", "bad.jsonl, line 1: not JSON"),
        ("tokenize good.wav ./good.wav --out t.jsonl", "would have the same id 'good'"),
        (
            "tokenize good.wav --out t.csv",
            "token files are named NAME.jsonl or NAME.parquet",
        ),
        ("tokenize good.wav --out t.zip", "token files are named"),
        ("tokenize good.wav --out missing/t.jsonl", "its folder missing does not exist"),
        ("tokenize good.wav --out good.wav/t", "is a file, not a folder"),
        ("tokenize good.wav --out t.jsonl --model no-such-model", "there is no model 'no-such-model'"),
        ("tokenize good.wav --out t.jsonl --model nothing", "nothing is not a model: it has no config.json"),
        ("decode missing.jsonl --out d", "token file missing.jsonl does not exist"),
        ("decode bad.jsonl --out d", "bad.jsonl, line 1: not JSON"),
        ("decode nothing --out d", "nothing is not a folder of tokens"),
        ("decode good.wav --out d", "good.wav is not a token file"),
        ("decode tokens.jsonl --speaker nobody --out d", "speaker 'nobody' is not in this model; it has 3: anna"),
        ("decode tokens.jsonl --speaker anna --out d.wav", "give a folder"),
        ("decode tokens.jsonl --speaker anna --out good.wav/d", "is a file, not a folder"),
        ("decode tokens.jsonl --speaker anna --out d --batch-size 0", "batch_size must be at least 1, got 0"),
        ("decode tokens.jsonl --speaker anna --out d --temperature -1", "temperature must be"),
        ("decode tokens.jsonl --speaker anna --out d --top-k 0", "top_k must be at least 1"),
        ("decode tokens.jsonl --speaker anna --out d --top-p 0", "top_p must be above 0 and at most 1, got 0.0"),
        ("decode tokens.jsonl --speaker anna --out d --threads 0", "threads must be at least 1, got 0"),
        ("convert good.wav --speaker nobody --out c", "speaker 'nobody' is not in this model; it has 3: anna"),
        ("convert good.wav --speaker anna nobody --out c", "speaker 'nobody' is not in this model"),
        ("convert good.wav --speaker --out c", "name at least one speaker"),
        ("convert good.wav --speaker all --out c.wav", "c.wav is one file, but 1 inputs and 3 speakers make 3 outputs"),
        ("convert good.wav --speaker anna --out c.mp3", "give a folder"),
        ("convert good.wav --speaker anna --out missing/c.wav", "its folder missing does not exist"),
        ("prepare folder missing --out m", "missing does not exist"),
        ("prepare vctk nothing --out m", "no VCTK audio in nothing"),
        ("prepare folder . --out m --mic mic2", "--mic applies to vctk, got mic2 with folder; leave it out"),
        ("prepare folder good.wav --out m", "good.wav is a file"),
        ("prepare folder . --out m --valid 0.9 --test 0.9", "lies directly in"),
        ("align nothing --out a.tsv", "nothing is a folder, not a manifest; give a file in it"),
        ("align missing.jsonl --out a.tsv", "manifest missing.jsonl does not exist"),
        ("align empty.jsonl --out a.tsv", "there are no utterances in the manifests"),
        ("align empty.jsonl --out a.tsv --threads 0", "--threads must be at least 1, got 0"),
        (
            "evaluate --data nothing --out r --max-utterances 0",
            "max_utterances and decoded_utterances must be at least 1, got 0",
        ),
        ("info missing", "there is no model 'missing'"),
        ("info missing.jsonl", "token file missing.jsonl does not exist"),
        ("info bad.jsonl", "bad.jsonl, line 1: not JSON"),
    ],
)
def test_wrong_usage_is_explained_before_anything_is_written(
    tmp_path, run, good, monkeypatch, arguments, message
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("tokenize", "good.wav", "--out", "tokens.jsonl")[0] == 0
    (tmp_path / "nothing").mkdir()
    (tmp_path / "bad.jsonl").write_text("hello\n")
    (tmp_path / "empty.jsonl").touch()
    before = sorted(tmp_path.rglob("*"))
    code, err = run(*arguments.split())
    assert code == 2
    assert len(err) == 1
    assert err[0].startswith("error: ")
    assert message in err[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "sing",
        "tokenize good.wav",
        "tokenize a --out b --modell mini",
        "decode a --out b --device tpu",
        "prepare x y",
    ],
)
def test_wrong_flags_exit_with_2(run, arguments, capsys) -> None:
    assert main(arguments.split()) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda facts: facts | {"format": 3}, "has format 3, but this vqaudio reads formats 1 and 2"),
        (lambda facts: facts | {"kind": "Transformer"}, "is a model of kind 'Transformer'"),
        (lambda facts: facts | {"config": facts["config"] | {"layers": 3}}, "unknown key 'layers'"),
        (lambda facts: facts | {"config": facts["config"] | {"speakers": ["a"]}}, "does not match its config.json"),
        (lambda facts: {}, "was not written by vqaudio"),
    ],
)
def test_a_checkpoint_of_another_version(tmp_path, run, good, tiny_model_dir, spoil, message) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(spoil(json.loads(config.read_text()))))
    for arguments in (
        ("tokenize", good, "--out", tmp_path / "t.jsonl", "--model", tmp_path / "model"),
        ("info", tmp_path / "model"),
    ):
        code, err = run(*arguments)
        assert code == 2
        assert len(err) == 1
        assert err[0].startswith("error: ")
        assert message in err[0]
    assert not (tmp_path / "t.jsonl").exists()


def test_a_checkpoint_that_was_cut_off(tmp_path, run, good, tiny_model_dir) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, err = run("tokenize", good, "--out", tmp_path / "t.jsonl", "--model", tmp_path / "model")
    assert code == 2
    assert len(err) == 1
    assert "is damaged" in err[0]


def test_no_gpu_is_explained(run, good, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, err = run("tokenize", good, "--out", tmp_path / "t.jsonl", "--device", "cuda")
    assert (code, err) == (2, ["error: PyTorch finds no GPU; use --device cpu"])


@pytest.fixture
def read_only(tmp_path, monkeypatch) -> Path:
    """A folder that is not writable. Permissions do not stop the superuser, for whom Python functions are patched."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    if not os.access(folder, os.W_OK):
        return folder

    def refusing(method: Callable) -> Callable:
        def call(self: Path, *args, **kwargs) -> None:
            if folder in self.absolute().parents:
                raise PermissionError(13, "Permission denied", str(self))
            method(self, *args, **kwargs)

        return call

    monkeypatch.setattr(Path, "touch", refusing(Path.touch))
    monkeypatch.setattr(Path, "mkdir", refusing(Path.mkdir))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).absolute() != folder)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        "tokenize good.wav --out locked/t.jsonl",
        "tokenize good.wav --out locked/t",
        "decode tokens.jsonl --speaker anna --out locked",
        "decode tokens.jsonl --speaker anna --out locked/d/e",
        "convert good.wav --speaker anna --out locked/c.wav",
        "convert good.wav --speaker anna --out locked/c",
        "prepare folder corpus --out locked",
        "prepare folder corpus --out locked/m",
    ],
)
def test_a_read_only_output(tmp_path, run, good, read_only, monkeypatch, arguments) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("tokenize", good, "--out", "tokens.jsonl")[0] == 0
    (tmp_path / "corpus" / "anna").mkdir(parents=True)
    shutil.copy(good, tmp_path / "corpus" / "anna")
    code, err = run(*arguments.split())
    assert code == 2
    assert len(err) == 1
    assert err[0].startswith("error: cannot ")
    assert "choose a folder that you may write to" in err[0]
    assert list(read_only.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tmp_path, run, good, monkeypatch) -> None:
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("vqaudio.speech.model.SpeechVQVAE.tokenize", interrupt)
    assert run("tokenize", good, "--out", tmp_path / "t.jsonl") == (130, ["error: interrupted"])
    assert [path.name for path in tmp_path.iterdir()] == ["good.wav"]
