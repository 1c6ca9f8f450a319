"""Encodes packed images and caches the codes in a file.

Shapes: U images, M codes per position, h x w positions.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from filelock import FileLock
from tqdm import tqdm

from vqaudio.images.codes import CodeMaps, read_codes, write_codes
from vqaudio.images.data import PackedImages, centre_batches
from vqaudio.images.vqvae import ImageVQVAE

BATCH_SIZE = 128
HASHED_BYTES = 48  # bytes in the middle of each image that enter the hash


def codes_of(model: ImageVQVAE, images: PackedImages, path: Path, *, mirrored: bool = False) -> CodeMaps:
    """Codes (U, M, h, w) of the centre crops of the images, read from `path`, or computed and written there.

    mirrored: append the codes of all horizontally flipped images (2 U in total). Concurrent processes wait for the
    first one. Raises ValueError if the file has codes of another model or of other images.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    source = _source_hash(images, model.cfg.size, mirrored)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            write_codes(path, _encode(model, images, mirrored, source))
    maps = read_codes(path)
    if maps.model != model.fingerprint:
        raise ValueError(
            f"{path} contains codes of model {maps.model}, this is model {model.fingerprint}; delete the file, or "
            "choose another --out"
        )
    if maps.source != source:
        raise ValueError(
            f"{path} contains codes of other images, or of the same images prepared differently; delete the file"
        )
    return maps


def _source_hash(images: PackedImages, size: int, mirrored: bool) -> str:
    """Hash of the images and the encoding options, without reading all pixels."""
    facts = [size, mirrored, images.classes, images.ids]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for numbers in (images.heights, images.widths, images.labels):
        digest.update(numbers.tobytes())
    for start, end in zip(images.offsets[:-1], images.offsets[1:], strict=True):
        middle = (start + end) // 2
        digest.update(images.pixels[middle : min(end, middle + HASHED_BYTES)].tobytes())
    return digest.hexdigest()


def _encode(model: ImageVQVAE, images: PackedImages, mirrored: bool, source: str) -> CodeMaps:
    device = model.device
    codes, labels = [], []
    bar = tqdm(total=len(images) * (1 + mirrored), desc="writing codes", unit="img", disable=None)
    for flip in (False, True) if mirrored else (False,):
        for batch in centre_batches(images, model.cfg.size, BATCH_SIZE):
            image = batch["image"].to(device)
            codes.append(model.encode(image.flip(3) if flip else image).cpu().int())
            labels.append(batch["label"])
            bar.update(len(image))
    bar.close()
    return CodeMaps(torch.cat(codes), torch.cat(labels), images.classes, model.codebook_size, model.fingerprint, source)
