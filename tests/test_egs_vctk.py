"""The stages of egs/vctk/run.sh, on the real corpus if it is available, and the download on a local archive."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "vctk_mini"
TINY = {
    "crops": {"samples": 1024, "batch_size": 2},
    "validation": {"samples": 1024, "batch_size": 2, "num_batches": 1},
    "model": {
        "encoder": {"channels": [8, 8, 8, 8, 8, 16], "dilations": [1], "dim": 8},
        "quantizer": {"codebook_size": 16, "dim": 8},
        "decoder": {
            "layers": 2,
            "layers_per_stack": 2,
            "residual_channels": 8,
            "skip_channels": 8,
            "cond_hidden_channels": 8,
        },
    },
}
PRIOR = {
    "crops": {"length": 64, "batch_size": 2},
    "speech": {
        "net": {
            "layers": 2,
            "layers_per_stack": 2,
            "residual_channels": 8,
            "skip_channels": 8,
            "cond_hidden_channels": 8,
        }
    },
}


@pytest.mark.long
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent; set VQAUDIO_DATA to the folder that holds vctk_mini")
def test_stages_1_to_7_run_on_real_speech(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "prior.yaml").write_text(yaml.safe_dump(PRIOR))
    corpus = tmp_path / "few"  # of each speaker some utterances: the whole corpus would take minutes
    for audio in (path for speaker in sorted((DATA / "wav16").iterdir()) for path in sorted(speaker.iterdir())[:12]):
        for file in (audio, DATA / "txt" / audio.parent.name / f"{audio.stem}.txt"):
            link = corpus / file.relative_to(DATA)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    command = ["bash", str(ROOT / "egs/vctk/run.sh"), "--stage", "1", "--data", str(corpus)]
    command += ["--prior", str(tmp_path / "prior.yaml")]
    command += ["--conf", str(tmp_path / "tiny.yaml"), "--manifests", str(tmp_path / "data")]
    command += ["--out", str(tmp_path / "exp"), "--", "--fit.steps", "2"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path, "LAUNCH": "python"})
    assert done.returncode == 0, done.stdout + done.stderr
    files = [tmp_path / f"exp/tokens/{part}.jsonl" for part in ("train", "valid", "test")]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(rows) == len(list((corpus / "wav16").glob("*/*"))) == 82
    assert all(len(row["codes"]) == -(-row["num_samples"] // 64) for row in rows)
    assert len(list((tmp_path / "exp/converted").glob("*.wav"))) == 4
    assert len(list((tmp_path / "exp/samples").glob("*.wav"))) == 4
    rates = json.loads((tmp_path / "exp/report/report.json").read_text())["rates"]["data"]
    assert len(rates["by_speaker"]) == 8
    assert set(rates["overall"]) == {
        "nominal",
        "unigram",
        "bigram",
        "merged",
        "unigram_trained",
        "bigram_trained",
        "prior",
    }


def test_a_wrong_option_shows_the_usage() -> None:
    done = subprocess.run(["bash", str(ROOT / "egs/vctk/run.sh"), "--stagee", "1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--stagee" in done.stderr and "--stop-stage" in done.stderr


@pytest.mark.parametrize("stages", [("two", "4"), ("3", "2"), ("0", "8")])
def test_stages_that_are_none_are_refused(stages: tuple[str, str]) -> None:
    command = ["bash", str(ROOT / "egs/vctk/run.sh"), "--stage", stages[0], "--stop-stage", stages[1]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "stages must lie in 0 to 7" in done.stderr


def test_download_fetches_unpacks_and_does_not_fetch_twice(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("download", ROOT / "egs/vctk/download.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    archive = tmp_path / "home/VCTK-Corpus-0.92.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("txt/p225/p225_001.txt", "wav48_silence_trimmed/p225/p225_001_mic1.flac"):
            file.writestr(f"{name}", "Please call Stella.")
    corpus = module.download(tmp_path / "out", archive.as_uri())
    assert (corpus / "txt/p225/p225_001.txt").read_text() == "Please call Stella."
    archive.unlink()  # a second fetch would fail
    assert module.download(tmp_path / "out", archive.as_uri()) == corpus
