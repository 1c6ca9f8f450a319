"""The download of egs/cifar10, from a server on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Home(HTTPServer):
    """Serves CONTENT, and notes which ranges it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.knows_ranges = True
        self.closes_after = len(CONTENT)
        """bytes of a reply after which it hangs up"""
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
def test_an_interrupted_download_goes_on_where_it_stopped(
    tmp_path: Path, home: Home, script: ModuleType, knows_ranges: bool
) -> None:
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
def test_a_wrong_sum_is_told_with_the_right_one_and_nothing_is_kept(
    tmp_path: Path, home: Home, script: ModuleType, there: bytes
) -> None:
    wrong = MD5 if there else "0" * 32
    if there:
        (tmp_path / ".cifar-10-binary.tar.gz.partial").write_bytes(there)
    found = hashlib.md5(there + CONTENT[len(there) :]).hexdigest()
    with pytest.raises(ValueError, match=rf"its MD5 is {found}, it should be {wrong}; .* download it again"):
        script.download(tmp_path, home.url, wrong)
    assert _names(tmp_path) == []


def test_a_server_that_is_away_is_named(tmp_path: Path, home: Home, script: ModuleType) -> None:
    with pytest.raises(OSError, match=r"cannot fetch http://127\.0\.0\.1:1/x: .* run it again"):
        script.download(tmp_path, "http://127.0.0.1:1/x", MD5)
    assert _names(tmp_path) == []


def test_the_address_and_the_sum_are_the_official_ones(script: ModuleType) -> None:
    assert script.URL == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert script.CIFAR10_MD5 == "c32a1d4ab5d03f1284b67883e8d87530"
