"""The stages of egs/cifar10/run.sh on a few images, and the download from a server on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Home(HTTPServer):
    """Serves CONTENT, and records the requested ranges."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.knows_ranges = True
        self.closes_after = len(CONTENT)
        """bytes of a reply after which the connection is closed"""
        self.url = f"http://127.0.0.1:{self.server_port}/cifar-10-binary.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Home

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.knows_ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:][: self.server.closes_after])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: it is quiet."""


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("download_cifar10", ROOT / "egs/cifar10/download.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_fetches_once(tmp_path: Path, home: Home, script: ModuleType) -> None:
    for _ in range(2):
        archive = script.download(tmp_path / "new/out", home.url, MD5)
        assert archive == tmp_path / "new/out/cifar-10-binary.tar.gz"
        assert archive.read_bytes() == CONTENT
        assert _names(archive.parent) == [archive.name]
    assert home.ranges == [None]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_an_interrupted_download_is_resumed(tmp_path: Path, home: Home, script: ModuleType, knows_ranges: bool) -> None:
    home.knows_ranges, home.closes_after = knows_ranges, 100_000
    with pytest.raises(OSError, match="ended after 100000 of 256000 bytes; run it again"):
        script.download(tmp_path, home.url, MD5)
    assert _names(tmp_path) == [".cifar-10-binary.tar.gz.partial"]
    home.closes_after = len(CONTENT)
    assert script.download(tmp_path, home.url, MD5).read_bytes() == CONTENT
    assert home.ranges == [None, "bytes=100000-"]
    assert _names(tmp_path) == ["cifar-10-binary.tar.gz"]


def test_a_download_that_was_killed_before_its_renaming_is_complete(
    tmp_path: Path, home: Home, script: ModuleType
) -> None:
    (tmp_path / ".cifar-10-binary.tar.gz.partial").write_bytes(CONTENT)
    assert script.download(tmp_path, home.url, MD5).read_bytes() == CONTENT
    assert home.ranges == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("there", [b"", b"another version", CONTENT + b"more"])
def test_a_wrong_checksum_is_reported_and_nothing_is_kept(
    tmp_path: Path, home: Home, script: ModuleType, there: bytes
) -> None:
    wrong = MD5 if there else "0" * 32
    if there:
        (tmp_path / ".cifar-10-binary.tar.gz.partial").write_bytes(there)
    found = hashlib.md5(there + CONTENT[len(there) :]).hexdigest()
    with pytest.raises(ValueError, match=rf"its MD5 is {found}, expected {wrong}; .* download it again"):
        script.download(tmp_path, home.url, wrong)
    assert _names(tmp_path) == []


def test_an_unreachable_server_is_reported(tmp_path: Path, home: Home, script: ModuleType) -> None:
    with pytest.raises(OSError, match=r"cannot fetch http://127\.0\.0\.1:1/x: .* run it again"):
        script.download(tmp_path, "http://127.0.0.1:1/x", MD5)
    assert _names(tmp_path) == []


def test_the_address_and_the_sum_are_the_official_ones(script: ModuleType) -> None:
    assert script.URL == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert script.CIFAR10_MD5 == "c32a1d4ab5d03f1284b67883e8d87530"


NET = {"channels": 4, "layers": 1, "head_channels": 4, "kernel_size": 3}
TINY = {
    "vqvae": {
        "crops": {"batch_size": 2},
        "model": {
            "coder": {"channels": 4, "num_maps": 1, "dim": 2, "num_mixtures": 1},
            "quantizer": {"codebook_size": 8, "dim": 2},
            "vimco_samples": 2,
        },
    },
    "prior": {"image": {"net": NET}},
    "hierarchical": {"hierarchical": {"channels": 4, "quantizer": {"codebook_size": 8, "dim": 2}, "net": NET}},
}


@pytest.mark.long
def test_stages_1_to_6_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}_{what}": values
        for part, count in (("train", 40), ("test", 20))
        for what, values in (
            ("images", rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)),
            ("labels", np.arange(count, dtype=np.uint8) % 2),
        )
    }
    np.savez(tmp_path / "images.npz", allow_pickle=False, **arrays, class_names=np.array(["cat", "dog"]))
    (tmp_path / "conf").mkdir()
    for name, values in TINY.items():
        (tmp_path / f"conf/{name}.yaml").write_text(yaml.safe_dump(values))
    command = ["bash", str(ROOT / "egs/cifar10/run.sh"), "--stage", "1", "--data", str(tmp_path / "images.npz")]
    command += ["--conf", str(tmp_path / "conf"), "--packed", str(tmp_path / "packed"), "--out", str(tmp_path / "exp")]
    command += ["--baselines", "vae"]  # the others differ in --kind alone: tests/test_recipes_image.py
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, "--", "--fit.steps", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "LAUNCH": "python"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reports = {file.parent.name for file in (tmp_path / "exp/report").glob("*/report.json")}
    assert reports == {"vqvae", "vae", "hierarchical", "hierarchical-vae"}
    assert len(list((tmp_path / "exp/samples").glob("*.png"))) == 8


@pytest.mark.parametrize("stages", [("two", "4"), ("3", "2"), ("0", "7")])
def test_stages_that_are_none_are_refused(stages: tuple[str, str]) -> None:
    command = ["bash", str(ROOT / "egs/cifar10/run.sh"), "--stage", stages[0], "--stop-stage", stages[1]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "stages must lie in 0 to 6" in done.stderr
