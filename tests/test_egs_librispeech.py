"""The stages of egs/librispeech/run.sh, on real speech if it is available, and the download from a local archive."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import soundfile
import yaml

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "libri3"
TINY = {
    "crops": {"samples": 1024, "batch_size": 2},
    "validation": {"samples": 1024, "batch_size": 2, "num_batches": 1},
    "model": {
        "encoder": {"strides": [2, 4, 16], "channels": [8, 8, 16], "dilations": [1], "dim": 8},
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
NET = {"layers": 2, "layers_per_stack": 2, "residual_channels": 8, "skip_channels": 8, "cond_hidden_channels": 8}
PRIOR = {"conditional": False, "crops": {"length": 64, "batch_size": 2}, "speech": {"net": NET}}


@pytest.mark.long
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent; set VQAUDIO_DATA to the folder that holds libri3")
def test_all_stages_but_the_download_run_on_real_speech(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="alignments need pip install 'vqaudio[metrics]'")
    for speaker in sorted(path for path in (DATA / "wav16").iterdir() if path.is_dir()):
        own = tmp_path / "LibriSpeech/sub" / speaker.name / "1"
        own.mkdir(parents=True)
        texts = ""
        for i, audio in enumerate(sorted(speaker.glob("*.flac"))[:20]):
            (own / f"{speaker.name}-1-{i:04d}.flac").symlink_to(audio.resolve())
            text = DATA / "txt" / speaker.name / f"{audio.stem}.txt"
            texts += f"{speaker.name}-1-{i:04d} {text.read_text().strip().upper()}\n"
        (own / f"{speaker.name}-1.trans.txt").write_text(texts)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "prior.yaml").write_text(yaml.safe_dump(PRIOR))
    command = ["bash", str(ROOT / "egs/librispeech/run.sh"), "--stage", "1", "--data", str(tmp_path / "LibriSpeech")]
    command += ["--conf", str(tmp_path / "tiny.yaml"), "--prior", str(tmp_path / "prior.yaml")]
    command += ["--phones-conf", str(tmp_path / "tiny.yaml"), "--phones-out", str(tmp_path / "phones")]
    command += ["--manifests", str(tmp_path / "data"), "--out", str(tmp_path / "exp"), "--", "--fit.steps", "2"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path, "LAUNCH": "python"})
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "exp/report/report.json").read_text())
    assert metrics["rates"]["data"]["overall"]["nominal"]["bits_per_second"] == pytest.approx(4 * 125, rel=0.01)
    wavs = sorted((tmp_path / "exp/samples").glob("*.wav"))
    assert len(wavs) == 4
    assert all(soundfile.info(wav).frames == 3 * 16000 for wav in wavs)
    report = json.loads((tmp_path / "phones/report/report.json").read_text())
    phones = {one["metric"]: one["value"] for one in report["metrics"] if one["system"] == "tokens"}
    assert 0 < phones["accuracy"] < 1 and phones["majority_accuracy"] > 0


def test_a_local_archive_is_unpacked_and_not_fetched(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("download", ROOT / "egs/librispeech/download.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = tmp_path / "84-1.trans.txt"
    text.write_text("84-1-0000 HELLO\n")
    (tmp_path / "out").mkdir()
    with tarfile.open(tmp_path / "out/dev-clean.tar.gz", "w:gz") as archive:
        archive.add(text, "LibriSpeech/dev-clean/84/1/84-1.trans.txt")
    corpus = module.download(tmp_path / "out", "dev-clean")
    assert (corpus / "dev-clean/84/1/84-1.trans.txt").read_text() == "84-1-0000 HELLO\n"
    (tmp_path / "out/dev-clean.tar.gz").unlink()  # a second fetch would fail
    assert module.download(tmp_path / "out", "dev-clean") == corpus
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"LibriSpeech"}
