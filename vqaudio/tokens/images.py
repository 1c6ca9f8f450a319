"""The codes of packed images, written once.

Letters: U images, B batch, S side of the square that is coded, M codes at each place, h rows, w columns.
"""

from __future__ import annotations

from pathlib import Path

import torch
from filelock import FileLock

from vqaudio.data.code_maps import CodeMaps, read_codes, write_codes
from vqaudio.data.images import PackedImages, centre_batches
from vqaudio.models.image import ImageVQVAE

IMAGES_AT_ONCE = 128


def codes_of(model: ImageVQVAE, images: PackedImages, path: Path, *, mirrored: bool = False) -> CodeMaps:
    """The codes (U, M, h, w) of the images' centre squares, read from `path` or, the first time, written there.

    mirrored: also of every image seen in a mirror, behind the others (2 U). Processes that ask at once wait for the
    first. Raises ValueError for a file with the codes of another model, or of other images.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            write_codes(path, _encode(model, images, mirrored))
    maps, wanted = read_codes(path), len(images) * (1 + mirrored)
    if maps.model != model.fingerprint:
        raise ValueError(
            f"{path} holds codes of model {maps.model}, this is model {model.fingerprint}; remove the file, or train "
            "somewhere else"
        )
    if len(maps) != wanted or maps.classes != images.classes:
        raise ValueError(f"{path} holds {len(maps)} maps of other images, {wanted} are wanted; remove the file")
    return maps


def _encode(model: ImageVQVAE, images: PackedImages, mirrored: bool) -> CodeMaps:
    device = model.quantizer.codebook.device
    codes, labels = [], []
    for flip in (False, True) if mirrored else (False,):
        for batch in centre_batches(images, model.cfg.size, IMAGES_AT_ONCE):
            image = batch["image"].to(device)
            codes.append(model.encode(image.flip(3) if flip else image).cpu())
            labels.append(batch["label"])
    return CodeMaps(torch.cat(codes), torch.cat(labels), images.classes, model.codebook_size, model.fingerprint)
