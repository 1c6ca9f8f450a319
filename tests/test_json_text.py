"""Damaged JSON in every file that is read: one sentence, exit code 2, no traceback."""

import json
from pathlib import Path

import pytest

from vqaudio.cli.main import main
from vqaudio.config import ConfigError, load_yaml
from vqaudio.data.packed import INDEX_FILE as PACKED_INDEX
from vqaudio.data.packed import SAMPLES_FILE, open_packed
from vqaudio.images.data import INDEX_FILE, PIXELS_FILE, open_images
from vqaudio.json_text import JSONError, parse_json
from vqaudio.speech.config import SpeechVQVAEConfig

DAMAGED = {
    "nested lists": b"[" * 20_000,
    "nested objects": b'{"a":' * 20_000,
    "digits": b'{"seconds": ' + b"9" * 5000 + b"}",
    "latin-1": b'{"id": "\xe9"}',
    "cut off": b'{"id": "a',
    "NUL": b"\0\0\0",
}
TOKENS = {"id": "a", "speaker": None, "codes": [0], "num_samples": 8, "sample_rate": 16000, "hop": 8, "model": "m"}
LARGE = [10**400, 10**30, -(10**400), 1e308, float("inf"), float("nan")]


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_text_is_one_kind_of_error(name) -> None:
    with pytest.raises(JSONError):
        parse_json(DAMAGED[name])


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_one_sentence_in_every_verb(tmp_path, capsys, tiny_model_dir, name) -> None:
    file, folder = tmp_path / "damaged.jsonl", tmp_path / "model"
    file.write_bytes(DAMAGED[name])
    folder.mkdir()
    (folder / "config.json").write_bytes(DAMAGED[name])
    out, model = str(tmp_path / "out"), ["--model", str(tiny_model_dir)]
    _refused(capsys, "decode", str(file), "--out", out, *model)
    _refused(capsys, "tokenize", str(file), "--out", out, *model)
    _refused(capsys, "convert", str(file), "--out", out, "--speaker", "anna", *model)
    _refused(capsys, "pack", str(file), "--out", out + ".vqa")
    _refused(capsys, "info", str(file))
    _refused(capsys, "info", str(folder))
    _refused(capsys, "evaluate", "--data", str(file), "--out", out, *model)


@pytest.mark.parametrize("value", LARGE, ids=str)
@pytest.mark.parametrize("key", ["num_samples", "sample_rate", "hop", "codes"])
def test_numbers_out_of_range_in_a_token_file(tmp_path, capsys, tiny_model_dir, key, value) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({**TOKENS, key: [value] if key == "codes" else value}))
    _refused(capsys, "info", str(file))
    _refused(capsys, "decode", str(file), "--out", str(tmp_path / "out"), "--model", str(tiny_model_dir))


@pytest.mark.parametrize("value", LARGE, ids=str)
def test_seconds_out_of_range_in_a_manifest(tmp_path, capsys, tiny_model_dir, value) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps({"id": "a", "path": "a.wav", "speaker": "s", "seconds": value}))
    _refused(capsys, "tokenize", str(file), "--out", str(tmp_path / "t.jsonl"), "--model", str(tiny_model_dir))


def test_a_large_hop_does_not_overflow(tmp_path, capsys) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({**TOKENS, "num_samples": 10**400, "hop": 10**400}))
    _refused(capsys, "info", str(file))


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_indices_of_packed_corpora(tmp_path, name) -> None:
    for index in (PACKED_INDEX, INDEX_FILE):
        (tmp_path / index).write_bytes(DAMAGED[name])
    for content in (SAMPLES_FILE, PIXELS_FILE):
        (tmp_path / content).touch()
    with pytest.raises(ValueError):
        open_packed(tmp_path)
    with pytest.raises(ValueError):
        open_images(tmp_path)


@pytest.mark.parametrize("text", ["[" * 20_000, "time_jitter: " + "9" * 400, "time_jitter: " + "9" * 5000])
def test_yaml_is_refused_in_words(tmp_path, text) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_yaml(SpeechVQVAEConfig, tmp_path / "c.yaml")


@pytest.mark.parametrize("value", [10**12, 10**30, 10**400], ids=["1e12", "1e30", "1e400"])
@pytest.mark.parametrize("key", ["sample_rate", "encoder.channels", "quantizer.codebook_size", "decoder.layers"])
def test_a_model_of_absurd_size(tmp_path, capsys, tiny_model_dir, key, value) -> None:
    facts = json.loads((tiny_model_dir / "config.json").read_text())
    part, _, name = key.rpartition(".")
    within = facts["config"][part] if part else facts["config"]
    within[name] = [value] if isinstance(within[name], list) else value
    (tmp_path / "config.json").write_text(json.dumps(facts))
    _refused(capsys, "info", str(tmp_path))


def _refused(capsys, *arguments: str) -> None:
    """Exit code 1 or 2 with one sentence on standard error, and no output."""
    assert main(arguments) in (1, 2), arguments
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: "), said
    assert len(said[0]) < 1000, said
    out = Path(arguments[arguments.index("--out") + 1]) if "--out" in arguments else None
    assert out is None or not out.exists()
