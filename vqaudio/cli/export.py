"""vqaudio export: a model in formats that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vqaudio.cli.console import Model, Overwrite, load, print_facts


def export(
    format: Positional[Literal["hf", "onnx"]],
    model: Positional[Model],
    out: Path,
    chunk_frames: Annotated[int | None, arg(metavar="INT", help="onnx: codes per chunk; by default 64")] = None,
    report: Annotated[Path | None, arg(metavar="REPORT", help="hf: report of this model, for the model card")] = None,
    license: Annotated[str | None, arg(metavar="NAME", help="hf: licence in the model card, such as mit")] = None,
    push: Annotated[str | None, arg(metavar="USER/MODEL", help="hf: upload the folder to the Hugging Face Hub")] = None,
    overwrite: Overwrite = False,
) -> int:
    """Write a model for other programs (needs vqaudio[hub]).

    hf: a folder for Hugging Face transformers (AutoModelForAudioTokenization) and for vqaudio itself. onnx: encoder,
    front-end and nearest code as an ONNX graph of static shape, for onnxruntime.

    Args:
        format: what to write
        out: folder to write
    """
    from vqaudio.checkpoint import model_folder

    of_other = {"hf": {"chunk-frames": chunk_frames}, "onnx": {"report": report, "license": license, "push": push}}
    if given := [f"--{flag}" for flag, value in of_other[format].items() if value is not None]:
        raise ValueError(f"{', '.join(given)}: not an option of vqaudio export {format}")
    folder = model_folder(model)
    net = load(str(folder), "cpu")
    if format == "onnx":
        from vqaudio.hub.onnx import export_onnx

        size = {} if chunk_frames is None else {"chunk_frames": chunk_frames}
        written = export_onnx(net, out, overwrite=overwrite, **size)
        print_facts({"model": net.fingerprint, "written": str(written)})
    else:
        from vqaudio.hub.hf import export_hf, push_to_hub

        files = export_hf(net, out, name=push, source=folder, report=report, license=license, overwrite=overwrite)
        print_facts({"model": net.fingerprint, "written": f"{out}: {', '.join(files)}"})
        if push is not None:
            print_facts({"uploaded": push_to_hub(out, files, push)})
    return 0
