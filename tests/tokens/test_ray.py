"""`vqaudio tokenize --engine ray`: the tokens of one process, each utterance once, however often it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vqaudio.cli.main import main
from vqaudio.data.audio import AudioError
from vqaudio.data.audio_folders import Source
from vqaudio.nn.pitch_quantizer import PitchQuantizerConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.pitch_init import with_pitch_tokens
from vqaudio.tokens import ray as engine
from vqaudio.tokens.bulk import find_sources, tokenize_each
from vqaudio.tokens.files import read_tokens, write_tokens
from vqaudio.tokens.rows import format_row

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def speech(tmp_path) -> Path:
    """Noise of various lengths, and one file that is not audio."""
    folder = tmp_path / "speech"
    (folder / "anna").mkdir(parents=True)
    for i in range(12):
        wav = np.random.default_rng(i).uniform(-0.5, 0.5, 300 + i)
        soundfile.write(folder / "anna" / f"{i:02d}.wav", wav, 16000)
    (folder / "anna" / "05b.wav").write_text("hello")
    return folder


@pytest.fixture
def run(tiny_model_dir) -> Callable[..., int]:
    """(*arguments) -> exit code of `vqaudio tokenize`."""
    return lambda *rest: main(["tokenize", *map(str, rest), "--model", str(tiny_model_dir)])


@pytest.fixture
def sources(speech) -> list[Source]:
    return [Source(path.stem, path, "anna") for path in sorted((speech / "anna").iterdir())]


def _write_block(
    file: Path, model: SpeechVQVAE, sources: list[Source], numbers: list[int], *, pitch: bool = False
) -> None:
    """What an actor makes of some sources, as Ray writes it."""
    paths = file.parent / "paths.arrow"
    engine._write_paths(paths, sources)
    actor = engine._Tokenizer.__new__(engine._Tokenizer)
    actor.model, actor.pitch = model, pitch
    actor.paths = pa.ipc.open_file(pa.memory_map(str(paths))).read_all()["path"]
    pq.write_table(actor(pa.table({"id": numbers})), file)


def _lines(path: Path) -> list[str]:
    return [format_row(row) for row in read_tokens(path)]


def test_files_of_interrupted_runs_give_every_result_once_and_in_order(tmp_path, tiny_model, sources) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    _write_block(rows / "b.parquet", tiny_model, sources, [4, 5, 6, 7, 12])
    _write_block(rows / "a.parquet", tiny_model, sources, [3, 2, 1, 0])
    with pytest.raises(ValueError, match="lacks 4 of 13 utterances"):
        list(engine._results(rows, tiny_model, sources))
    _write_block(rows / "c.parquet", tiny_model, sources, [8, 9, 10, 11, 6, 2])  # two of them again
    (rows / "d.parquet").write_bytes((rows / "a.parquet").read_bytes()[:-10])  # its writer was killed
    found = [str(result) for result in engine._results(rows, tiny_model, sources)]
    assert found == [str(result) for result in tokenize_each(tiny_model, sources)]


@pytest.mark.parametrize("named", [False, True], ids=["beside", "elsewhere"])
def test_a_run_killed_after_its_output_was_written_is_brought_to_its_end(
    tmp_path, monkeypatch, capfd, tiny_model, run, speech, named
) -> None:
    monkeypatch.setattr(engine, "check_ray", lambda: None)  # everything is tokenized
    found = find_sources([speech], 1)
    out = tmp_path / "out"
    work = tmp_path / "work" if named else engine.checkpoint_of(out)
    command = [speech, "--out", out, "--engine", "ray", *(["--checkpoint", work] if named else [])]

    def finished_checkpoint() -> None:
        with engine._claimed(work, tiny_model, found):
            (work / "rows").mkdir()
            _write_block(work / "rows" / "a.parquet", tiny_model, found, list(range(13)))
            (work / "ids" / "run").mkdir(parents=True)
            pq.write_table(pa.table({"id": range(13)}), work / "ids" / "run" / "a.parquet")

    finished_checkpoint()
    assert run(*command) == 1  # one file is no audio
    assert not work.exists()
    names = sorted(path.name for path in out.iterdir())
    finished_checkpoint()
    work.with_name(f".{work.name}.old").mkdir()  # of another one that was being deleted
    assert run(*command) == 1
    assert sorted(path.name for path in out.iterdir()) == names
    assert {path.name for path in tmp_path.iterdir()} == {"speech", "out"}

    finished_checkpoint()
    (out / "00001-other.parquet").write_bytes((out / names[0]).read_bytes())  # it is not what this run wrote
    capfd.readouterr()
    assert run(*command) == 2
    assert "exists already; pass --overwrite" in capfd.readouterr().err
    (work / "ids" / "run" / "a.parquet").unlink()  # not everything is tokenized
    assert run(*command) == 2
    assert "exists already; pass --overwrite" in capfd.readouterr().err
    assert (out / "00001-other.parquet").exists() and (work / "rows" / "a.parquet").exists()


def test_pitch_tokens_come_back(tmp_path, acoustic_model, sources) -> None:
    model = with_pitch_tokens(
        acoustic_model, PitchQuantizerConfig(frames=10, codebook_size=4), [torch.rand(9000) - 0.5]
    )
    (tmp_path / "rows").mkdir()
    _write_block(tmp_path / "rows/a.parquet", model, sources[:6], [5, 4, 3, 2, 1, 0], pitch=True)
    found = list(engine._results(tmp_path / "rows", model, sources[:6]))
    assert [str(result) for result in found] == [str(each) for each in tokenize_each(model, sources[:6], pitch=True)]
    assert all(row.tokens.pitch is not None for row in found if not isinstance(row, AudioError))


def test_shards_are_numbered_and_named_by_content(tmp_path, monkeypatch, make_row) -> None:
    monkeypatch.setattr(engine, "SHARD_ROWS", 2)
    rows = [make_row(id, num_codes=3 + i) for i, id in enumerate("abcde")]
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        engine._write_shards(folder, rows)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert [name[:6] for name in names] == ["00000-", "00001-", "00002-"]
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert _lines(tmp_path / "one") == [format_row(row) for row in rows]
    write_tokens(tmp_path / "one.jsonl", read_tokens(tmp_path / "one"))
    assert main(["info", str(tmp_path / "one")]) == 0


def test_a_checkpoint_of_another_run_is_refused(tmp_path, tiny_model, sources) -> None:
    def claim(folder: str, inputs: list[Source]) -> None:
        with engine._claimed(tmp_path / folder, tiny_model, inputs):
            pass

    claim("work", sources)
    claim("work", sources)
    with pytest.raises(ValueError, match="is the checkpoint of other inputs"):
        claim("work", sources[1:])
    with pytest.raises(ValueError, match="exists and is no checkpoint"):
        claim("speech", sources)
    with engine._claimed(tmp_path / "work", tiny_model, sources), pytest.raises(ValueError, match="another process"):
        claim("work", sources)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (["--out", "t.parquet", "--engine", "ray"], "--engine ray writes a folder of Parquet shards"),
        (["--out", "-", "--engine", "ray"], "--engine ray writes a folder of Parquet shards"),
        (["--out", "t", "--engine", "ray", "--format", "npy"], "--engine ray writes a folder of Parquet shards"),
        (["--out", "t", "--engine", "ray", "--workers", "2"], "use --num-actors with --engine ray"),
        (["--out", "t", "--engine", "ray"], "pip install 'vqaudio[bulk]'"),
        (["--out", "t.jsonl", "--address", "auto"], "need --engine ray"),
        (["--out", "t", "--engine", "ray", "--resume"], "pip install 'vqaudio[bulk]'"),
    ],
)
def test_wrong_usage_is_said_before_any_work(tmp_path, monkeypatch, capfd, run, speech, rest, said) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data.checkpoint", None)
    monkeypatch.chdir(tmp_path)
    assert run(speech, *rest) == 2
    assert said in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["speech"]


@pytest.mark.long
def test_actors_write_what_one_process_writes(tmp_path, capfd, monkeypatch, run, speech) -> None:
    ray = pytest.importorskip("ray", reason="the engine needs Ray: pip install 'vqaudio[bulk]'")
    monkeypatch.setattr(engine, "SHARD_ROWS", 5)
    assert run(speech, "--out", tmp_path / "one.jsonl") == 1
    said = capfd.readouterr().err
    out = tmp_path / "shards"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert run(speech, "--out", out, "--engine", "ray") == 1
        assert said.splitlines()[-1] in capfd.readouterr().err
        assert _lines(out) == _lines(tmp_path / "one.jsonl")
        assert [json.loads(line)["id"] for line in (out / "failures.jsonl").open()] == ["anna-05b"]
        assert {path.name for path in tmp_path.iterdir()} == {"speech", "one.jsonl", "shards"}
        assert run(speech, "--out", out, "--engine", "ray") == 2  # not without --overwrite
        assert run(speech / "anna" / "05b.wav", "--out", tmp_path / "none", "--engine", "ray") == 1
        assert not (tmp_path / "none").exists() and not (tmp_path / "none.checkpoint").exists()
    finally:
        ray.shutdown()


def test_an_address_without_a_cluster_is_named(tmp_path, capfd, run, speech) -> None:
    pytest.importorskip("ray", reason="the engine needs Ray: pip install 'vqaudio[bulk]'")
    assert run(speech, "--out", tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1") == 2
    assert "there is no Ray cluster at 127.0.0.1:1" in capfd.readouterr().err.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"speech"}


@pytest.mark.long
def test_a_killed_driver_is_resumed(tmp_path, tiny_model_dir, run, speech) -> None:
    pytest.importorskip("ray", reason="the engine needs Ray: pip install 'vqaudio[bulk]'")
    out = tmp_path / "shards"
    rest = [str(speech), "--out", str(out), "--engine", "ray", "--num-actors", "1"]
    command = [sys.executable, "-m", "vqaudio", "tokenize", *rest, "--model", str(tiny_model_dir)]
    driver = subprocess.Popen(command, start_new_session=True)
    committed = tmp_path / "shards.checkpoint" / "ids"
    while not any("pending" not in path.name for path in committed.glob("*/*.parquet")):
        assert driver.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not out.exists()
    assert subprocess.run(command, timeout=300).returncode == 1
    assert run(speech, "--out", tmp_path / "one.jsonl") == 1
    assert _lines(out) == _lines(tmp_path / "one.jsonl")
