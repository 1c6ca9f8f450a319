"""Downloads CIFAR-10 (170 MB, the binary version) from its public home: download.py OUT_DIR

An existing file is not downloaded again, and an interrupted download is resumed.
"""

from __future__ import annotations

import argparse
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from vqaudio.images.corpora import CIFAR10_ARCHIVE, CIFAR10_MD5, check_archive

URL = f"https://www.cs.toronto.edu/~kriz/{CIFAR10_ARCHIVE}"
BLOCK = 1 << 16
TIMEOUT = 60  # seconds without data
NOTHING_MORE = 416  # HTTP status: the partial file is already complete


def download(out: Path, url: str = URL, md5: str = CIFAR10_MD5) -> Path:
    """Download OUT/cifar-10-binary.tar.gz unless it exists, and return its path.

    The file is renamed to its final name when it is complete and its MD5 is correct. Raises ValueError for a wrong MD5
    (the file is deleted), OSError if the connection fails (the partial file is kept, so that it can be resumed).
    """
    archive, partial = out / CIFAR10_ARCHIVE, out / f".{CIFAR10_ARCHIVE}.partial"
    if not archive.is_file():
        out.mkdir(parents=True, exist_ok=True)
        _fetch(url, partial)
        try:
            check_archive(partial, md5)
        except ValueError:
            partial.unlink()
            raise
        partial.rename(archive)
    return archive


def _fetch(url: str, partial: Path) -> None:
    """Append the missing bytes to `partial`, or start over if the server does not support ranges."""
    there = partial.stat().st_size if partial.is_file() else 0
    request = Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        with urlopen(request, timeout=TIMEOUT) as reply:
            begun = there if reply.status == 206 else 0
            total = begun + int(reply.headers.get("Content-Length", 0))
            bar = tqdm(initial=begun, total=total, desc=partial.name, unit="B", unit_scale=True, disable=None)
            with partial.open("ab" if begun else "wb") as file, bar:
                while block := reply.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
    except HTTPError as error:
        if error.code == NOTHING_MORE:
            return
        raise OSError(f"cannot fetch {url}: {error}; try again later") from error
    except (OSError, HTTPException) as error:
        raise OSError(f"cannot fetch {url}: {error}; run it again to resume") from error
    if (size := partial.stat().st_size) < total:
        raise OSError(f"{url} ended after {size} of {total} bytes; run it again to resume")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the archive")
    print(download(parser.parse_args().out))
