"""Checkpoints of a training run: written atomically, a bounded number of them, without pickle.

checkpoints/00001500/ holds model.safetensors (the weights for inference, averaged if an EMA is used, and whatever else
the `save` callback writes), training.safetensors (raw weights, EMA weights and optimizer state) and state.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vqaudio.json_text import parse_json
from vqaudio.upgrade import upgrade_flat

FORMAT = 2
CONTENT = ("utterances", "images", "codes")  # settings that are hashes of the training data
PATHS = ("train", "data")  # settings of earlier versions that named the data by where they lay


class TrainingError(RuntimeError):
    """A run that cannot continue; the message states the reason and the remedy."""


class TrainingState(NamedTuple):
    """Everything a run needs to resume as if it had not been interrupted."""

    step: int  # optimizer updates completed
    model: dict[str, Tensor]
    ema: dict[str, Tensor]  # EMA of the parameters; empty if no EMA is used
    optimizer: dict[str, Any]  # as returned by torch.optim.Optimizer.state_dict
    facts: dict[str, Any]  # settings that must not change on resume, number of processes, gradient scaler's state


def write(folder: Path, snapshot: TrainingState, save: Callable[[Path], None], keep: int) -> None:
    """Write `folder`/STEP, including the files that `save` adds, then delete all but the newest `keep` checkpoints.

    Raises OSError if it cannot be written; earlier checkpoints are left untouched.
    """
    final = folder / f"{snapshot.step:08d}"
    if final in complete(folder):  # a signal arrived right after it was written
        return
    partial = folder / f".{final.name}.partial"
    try:
        partial.mkdir(parents=True)
        save(partial)
        save_file(_flatten(snapshot), partial / "training.safetensors")
        state = {"format": FORMAT, "step": snapshot.step, "facts": snapshot.facts}
        (partial / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        partial.rename(final)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot write the checkpoint {final}: {error}; earlier checkpoints are intact, and once the cause is "
            "removed the same command resumes from the newest one"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old.rename(folder / f".{old.name}.old"))


def remove_leftovers(folder: Path) -> None:
    """Delete partially written or partially deleted checkpoints of a killed process."""
    for leftover in (*folder.glob(".*.partial"), *folder.glob(".*.old")):
        shutil.rmtree(leftover)


def complete(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if (path / "state.json").is_file())


def read(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
) -> TrainingState:
    """Load a checkpoint into `model` and `optimizer`.

    Raises TrainingError if it does not match the model or `settings`, or has an unknown format.
    """
    state = parse_json((checkpoint / "state.json").read_bytes())
    if state.get("format") == 1:
        state["facts"]["settings"] = upgrade_flat(state["facts"]["settings"])
    elif state.get("format") != FORMAT:
        raise TrainingError(
            f"{checkpoint} has format {state.get('format')!r}, this version of vqaudio reads formats 1 and {FORMAT}; "
            "start a new run with another --out"
        )
    saved = state["facts"]["settings"]
    for name, value in saved.items():  # a setting that is missing here was added in a later version
        if name in CONTENT and value != settings.get(name):
            raise TrainingError(
                f"{checkpoint} belongs to a run on other {name}: those given now differ in content, though they may "
                "have the same names; give the data of that run, or choose another --out"
            )
        if name not in PATHS and value != settings.get(name):
            raise TrainingError(
                f"{checkpoint} belongs to a run with {name} {value}, not {settings.get(name)}; resume with the same "
                "value, or choose another --out"
            )
    tensors = load_file(checkpoint / "training.safetensors")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    try:
        model.load_state_dict(parts["model"])
    except RuntimeError as error:
        raise TrainingError(
            f"{checkpoint} does not match the model of this configuration; start a new run with another --out, "
            f"or use the configuration of that run ({error})"
        ) from error
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        index, _, key = name.partition("/")
        moments.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return TrainingState(state["step"], parts["model"], parts["average"], optimizer.state_dict(), state["facts"])


def _flatten(snapshot: TrainingState) -> dict[str, Tensor]:
    named = {f"model/{name}": value for name, value in snapshot.model.items()}
    named |= {f"average/{name}": value for name, value in snapshot.ema.items()}
    for index, moments in snapshot.optimizer["state"].items():
        named |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in moments.items()}
    # cloned because safetensors rejects tensors that share memory
    return {name: value.detach().cpu().contiguous().clone() for name, value in named.items()}
