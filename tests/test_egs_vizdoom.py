"""The stages of egs/vizdoom/run.sh on a few frames of the game."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TINY = {
    "frames": {
        "crops": {"batch_size": 2},
        "model": {
            "size": 84,
            "coder": {"channels": 4, "num_maps": 1, "dim": 2, "num_mixtures": 1},
            "quantizer": {"codebook_size": 8, "dim": 2},
        },
    },
    "prior": {
        "crops": {"batch_size": 2},
        "prior": {
            "context": 2,
            "action_dim": 4,
            "past": {"channels": 4, "layers": 1},
            "net": {"channels": 4, "layers": 1, "head_channels": 4, "kernel_size": 3},
        },
    },
}


@pytest.mark.long
def test_all_stages_run(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom", reason="recording needs vizdoom: pip install 'vqaudio[video]'")
    (tmp_path / "conf").mkdir()
    for name, values in TINY.items():
        (tmp_path / f"conf/{name}.yaml").write_text(yaml.safe_dump(values))
    command = ["bash", str(ROOT / "egs/vizdoom/run.sh"), "--frames", "80", "--conf", str(tmp_path / "conf")]
    command += ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "exp"), "--", "--fit.steps", "2"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path, "LAUNCH": "python"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bits_per_dim" in json.loads((tmp_path / "exp/report/frames/report.json").read_text())
    report = json.loads((tmp_path / "exp/report/prior/report.json").read_text())
    assert report["uniform_bits"] == 3 and len(report["drift"]) == 2
    names = {path.name for path in (tmp_path / "exp/clips").iterdir()}
    assert names == {"forward.png", "forward.gif", "right.png", "right.gif"}
