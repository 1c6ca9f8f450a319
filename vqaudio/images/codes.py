"""Files of image codes made by a trained model: the training data of priors and hierarchical models.

Shapes: U images, B batch, M codes per position, h x w positions, K codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vqaudio.atomic import atomic_file
from vqaudio.data.sharding import part_slice, uniform_draws
from vqaudio.json_text import DAMAGED, JSONError, parse_json

VERSION = 1


@dataclass(frozen=True, eq=False)
class CodeMaps:
    """Codes of images of one size."""

    codes: Tensor
    """(U, M, h, w) integers in [0, K)"""
    labels: Tensor
    """(U,) int64, indices into classes"""
    classes: tuple[str, ...]
    """class names"""
    codebook_size: int
    """K"""
    model: str
    """fingerprint of the model that made the codes"""
    source: str
    """origin of the codes: a hash of the images, or a keyword"""

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(M, h, w)."""
        maps, height, width = self.codes.shape[1:]
        return maps, height, width


def write_codes(path: Path, maps: CodeMaps) -> None:
    """Write one safetensors file, atomically."""
    facts = {
        "version": VERSION,
        "classes": maps.classes,
        "codebook_size": maps.codebook_size,
        "model": maps.model,
        "source": maps.source,
    }
    tensors = {"codes": maps.codes.int().contiguous(), "labels": maps.labels}
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_bytes(save(tensors, {"vqaudio": json.dumps(facts)}))


def read_codes(path: Path) -> CodeMaps:
    """Read a file of `write_codes`. Raises ValueError if it is not one, or is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse_json((file.metadata() or {})["vqaudio"])
            codes, labels = file.get_tensor("codes"), file.get_tensor("labels").long()
    except (SafetensorError, KeyError, JSONError) as error:
        raise ValueError(f"{path} is not a file of image codes ({error}); delete it and run again") from error
    found = facts.get("version") if isinstance(facts, dict) else None
    if found != VERSION:
        raise ValueError(f"{path} has version {found}, expected {VERSION}; delete it and run again")
    try:
        classes, k = tuple(facts["classes"]), int(facts["codebook_size"])
        model, source = facts["model"], facts["source"]
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete it and run again") from error
    if len(labels) != len(codes):
        raise ValueError(f"{path} is damaged: {len(codes)} maps have {len(labels)} labels; delete it and run again")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < k:
        raise ValueError(
            f"{path} is damaged: codes must lie in 0..{k - 1}, got {int(codes.min())}..{int(codes.max())}; delete it "
            "and run again"
        )
    return CodeMaps(codes, labels, classes, k, model, source)


@dataclass(frozen=True)
class CodeMapBatchConfig:
    """Batches of code maps for training a prior."""

    batch_size: int = 64
    """global batch size: maps per optimizer step over all processes and accumulation steps"""
    seed: int = 0
    """random seed; seed and step determine every batch"""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.seed < 2**63:
            raise ValueError(f"batch_size must be at least 1 and seed lie in 0 to 2**63 - 1, got {self}")


class CodeMapBatches:
    """Random code maps for training: the global batch of a step is a pure function of (seed, step)."""

    seconds_per_step = 0.0  # not audio

    def __init__(self, maps: CodeMaps, cfg: CodeMapBatchConfig, *, labelled: bool):
        self.maps, self.cfg, self.labelled = maps, cfg, labelled

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
        """Slice `part` of `parts` of the batch of a step: {"codes": (B, M, h, w)}, and "label": (B,) if labelled."""
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size,))
        rows = torch.from_numpy((draws * len(self.maps)).astype(np.int64))
        return _rows(self.maps, rows[part_slice(self.cfg.batch_size, part, parts)], self.labelled)


def code_batches(maps: CodeMaps, batch_size: int, *, labelled: bool) -> Iterator[dict[str, Tensor]]:
    """Iterate over all maps in order; the last batch may be smaller."""
    for rows in torch.arange(len(maps)).split(batch_size):
        yield _rows(maps, rows, labelled)


def _rows(maps: CodeMaps, rows: Tensor, labelled: bool) -> dict[str, Tensor]:
    batch = {"codes": maps.codes[rows].long()}
    return batch | ({"label": maps.labels[rows]} if labelled else {})
