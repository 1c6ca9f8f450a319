"""Whatever flags and files say, a verb ends with 0, 1 or 2, and its errors are sentences."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vqaudio.cli.main import main

BEYOND = st.sampled_from([10**400, -(10**400)])
NAMES = st.sampled_from(["a.wav", "a.flac", "a.jsonl", "a.parquet", "a.vqa", "a.mp3"])
NUMBERS = st.sampled_from(
    [
        "0",
        "-1",
        "1",
        "2",
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "-inf",
        "1e-320",
        "0.5",
        "9" * 30,
        "-" + "9" * 30,
        "9" * 5000,
    ]
) | st.from_regex(r"-?[0-9]{1,12}(\.[0-9]{1,3})?", fullmatch=True)
FLAGS = ("--temperature", "--top-k", "--top-p", "--seed", "--threads", "--batch-size")
ROW = {"id": "a", "speaker": "anna", "codes": [1, 2], "num_samples": 16, "sample_rate": 16000, "hop": 8, "model": "m"}
MANIFEST = {"id": "a", "path": "a.wav", "speaker": "anna", "seconds": 0.01, "text": "yes"}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400)])
    | st.floats()
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SLOW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def audio(tmp_path) -> Path:
    soundfile.write(tmp_path / "a.wav", np.zeros(160), 16000)
    return tmp_path / "a.wav"


def _checked(*arguments: object) -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main([str(argument) for argument in arguments])
    assert code in (0, 1, 2), (code, said.getvalue())
    assert "Traceback" not in said.getvalue()
    assert code == 0 or said.getvalue().strip()


@SLOW
@given(flag=st.sampled_from(FLAGS), number=NUMBERS)
def test_numbers_of_flags(audio, tiny_model_dir, flag, number) -> None:
    out = audio.parent / "o.wav"
    model = ("--speaker", "anna", "--model", tiny_model_dir, "--overwrite")
    _checked("convert", audio, "--out", out, *model, f"{flag}={number}")


@SLOW
@given(content=st.binary(max_size=80), name=NAMES)
def test_damaged_files(tmp_path, tiny_model_dir, content, name) -> None:
    file, out = tmp_path / name, tmp_path / "o"
    file.write_bytes(content)
    _checked("tokenize", file, "--out", out, "--model", tiny_model_dir, "--overwrite")
    _checked("decode", file, "--out", out, "--model", tiny_model_dir, "--overwrite")
    _checked("unpack", file, "--out", out, "--overwrite")
    _checked("info", file)


@SLOW
@given(key=st.sampled_from(sorted({*ROW, *MANIFEST})), value=VALUES)
def test_any_value_of_a_row(audio, tiny_model_dir, key, value) -> None:
    folder = audio.parent
    for name, row in (("t.jsonl", ROW), ("m.jsonl", MANIFEST)):
        (folder / name).write_text(json.dumps({**row, key: value}))
    _checked("decode", folder / "t.jsonl", "--out", folder / "o", "--model", tiny_model_dir, "--overwrite")
    _checked("info", folder / "t.jsonl")
    _checked("tokenize", folder / "m.jsonl", "--out", folder / "k.jsonl", "--model", tiny_model_dir, "--overwrite")


@SLOW
@given(data=st.data())
def test_any_value_in_the_configuration_of_a_model(tmp_path, tiny_model_dir, data) -> None:
    facts = json.loads((tiny_model_dir / "config.json").read_text())
    part = facts["config"]
    while isinstance(part[key := data.draw(st.sampled_from(sorted(part)))], dict) and data.draw(st.booleans()):
        part = part[key]
    part[key] = data.draw(VALUES)
    (tmp_path / "config.json").write_text(json.dumps(facts))
    (tmp_path / "model.safetensors").write_bytes((tiny_model_dir / "model.safetensors").read_bytes())
    _checked("info", tmp_path)
