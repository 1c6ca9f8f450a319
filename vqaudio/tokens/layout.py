"""How tokens are laid out in files: one configuration for the command line and `write_tokens`.

Importable without PyTorch, so that `vqaudio --help` is fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FormatName = Literal["jsonl", "parquet", "npy", "webdataset", "textless", "slamkit", "kaldi"]


@dataclass(frozen=True)
class Layout:
    """Format and options of a token file. Raises ValueError for values out of range."""

    format: FormatName | None = None
    """format of the output; None chooses it by the suffix of its name: .jsonl, .parquet, .tar (webdataset), .units
    (textless), none for a folder of .npy files. textless, slamkit and kaldi are read by language-model toolkits"""
    dedup: bool = False
    """write runs of equal codes once, with their lengths, as "units" and "duration" in place of "codes" (always in
    slamkit, without lengths in textless and kaldi)"""
    shard_rows: int | None = None
    """with --format webdataset, write a folder of shards of at most that many utterances each"""
    shard_bytes: int | None = None
    """with --format webdataset, write a folder of shards of at most that many bytes each, if they hold several rows"""

    def __post_init__(self) -> None:
        for name in ("shard_rows", "shard_bytes"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
            if size is not None and self.format not in (None, "webdataset"):
                raise ValueError(f"only the format webdataset is written in shards, not {self.format}")

    @property
    def sharded(self) -> bool:
        """Whether the output is a folder of shards."""
        return self.shard_rows is not None or self.shard_bytes is not None
