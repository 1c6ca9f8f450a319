"""Checkpoints of a run: whole or not there, few, and no pickles.

checkpoints/00001500/ holds model.safetensors (the weights to use, moving averages where there are any, with what
`save` writes beside them), training.safetensors (the weights as they are trained, the averages, the optimizer's
state) and state.json.
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

from vqaudio.upgrade import upgrade_flat

FORMAT = 2


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why and what to do."""


class TrainingState(NamedTuple):
    """All that a run needs to continue as if it had never stopped."""

    step: int  # updates done
    model: dict[str, Tensor]
    ema: dict[str, Tensor]  # moving average of the parameters; empty without
    optimizer: dict[str, Any]  # as torch.optim.Optimizer.state_dict gives it
    facts: dict[str, Any]  # what must be the same when it continues, and the loss scaler's state


def write(folder: Path, snapshot: TrainingState, save: Callable[[Path], None], keep: int) -> None:
    """Writes `folder`/STEP, with what `save` puts there beside it, then removes all but the newest `keep`.

    Raises OSError where it cannot be written; what was there before stays.
    """
    final = folder / f"{snapshot.step:08d}"
    if final in complete(folder):  # a signal right after it was written
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
            f"cannot write the checkpoint {final}: {error}; those from before are whole, and once it can be written "
            "the same command continues from the newest"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old.rename(folder / f".{old.name}.old"))


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process left: checkpoints half written, or half removed."""
    for leftover in (*folder.glob(".*.partial"), *folder.glob(".*.old")):
        shutil.rmtree(leftover)


def complete(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if (path / "state.json").is_file())


def read(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
) -> TrainingState:
    """Reads one into `model` and `optimizer`. Raises TrainingError where it fits neither them nor `settings`."""
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if state.get("format") == 1:
        state["facts"]["settings"] = upgrade_flat(state["facts"]["settings"])
    elif state.get("format") != FORMAT:
        raise TrainingError(
            f"{checkpoint} has format {state.get('format')!r}, this vqaudio continues formats 1 and {FORMAT}; "
            "start anew with another --out"
        )
    began = state["facts"]["settings"]
    for name, value in began.items():  # one that it does not name came with a later version
        if value != settings.get(name):
            raise TrainingError(
                f"{checkpoint} is of a run that began with {name} {value}, not {settings.get(name)}; continue with "
                "that, or choose another --out"
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
            f"{checkpoint} holds another model than this configuration describes; start anew with another --out, "
            f"or give the configuration that it began with ({error})"
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
    # clones: safetensors refuses tensors that share memory
    return {name: value.detach().cpu().contiguous().clone() for name, value in named.items()}
