"""vqaudio export: a model in formats that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vqaudio.cli.console import Model, Overwrite, load, print_facts


def export(
    format: Positional[Literal["onnx"]],
    model: Positional[Model],
    out: Path,
    chunk_frames: Annotated[int | None, arg(metavar="INT", help="onnx: codes per chunk (64)")] = None,
    overwrite: Overwrite = False,
) -> int:
    """Write a model for other programs.

    onnx: encoder, front-end and nearest code as an ONNX graph of static shape, for onnxruntime.

    Args:
        format: onnx
        out: folder to write
    """
    from vqaudio.hub.onnx import CHUNK_FRAMES, export_onnx

    net = load(model, "cpu")
    path = export_onnx(
        net, out, chunk_frames=CHUNK_FRAMES if chunk_frames is None else chunk_frames, overwrite=overwrite
    )
    print_facts({"model": net.fingerprint, "written": str(path)})
    return 0
