"""Saves and loads models: a folder with config.json and model.safetensors, never a pickle."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from vqaudio.atomic import atomic_file, save_json
from vqaudio.config import ConfigError, from_dict, to_dict
from vqaudio.json_text import JSONError, parse_json
from vqaudio.torch_defaults import with_own_defaults
from vqaudio.upgrade import upgrade

if TYPE_CHECKING:
    from vqaudio.speech.model import SpeechVQVAE

Kind = TypeVar("Kind", bound=nn.Module)
FORMAT = 2  # version of the keys in config.json and of the weight names in model.safetensors
COMPILED_PART = "_orig_mod."  # in the names of the weights of a part that torch.compile returned
PRETRAINED = Path(__file__).parent / "pretrained"
GOLDEN = "golden.jsonl"  # beside the config.json of a shipped model: tokens of its recordings, `golden_recordings`
# Kind of model in config.json -> module that defines it. A file never names a module, so it cannot import code.
KINDS = {
    "SpeechVQVAE": "vqaudio.speech.model",
    "CodePrior": "vqaudio.speech.prior",
    "ImageVQVAE": "vqaudio.images.vqvae",
    "ImageVAE": "vqaudio.images.baselines",
    "ImageVIMCO": "vqaudio.images.baselines",
    "ImageGumbel": "vqaudio.images.baselines",
    "ImagePrior": "vqaudio.images.prior",
    "CodeMapVQVAE": "vqaudio.images.hierarchical",
    "CodeMapVAE": "vqaudio.images.hierarchical",
    "VideoPrior": "vqaudio.video.prior",
}


class ModelError(ValueError):
    """A model does not exist or cannot be read; the message states the reason and the remedy."""


def save_model(model: nn.Module, folder: str | Path, *, float16: Sequence[str] = ()) -> None:
    """Writes config.json and model.safetensors of a model of this package to `folder`, each file atomically.

    A model in a wrapper (torch.compile, DistributedDataParallel, AveragedModel) is saved without it. The folder is
    created if necessary, and existing files are replaced. `float16`: names of parts ("decoder") whose weights are
    rounded to half precision in the file, which halves their size; a loaded model computes with them in float32. Not
    for the parts that determine codes: they would be another tokenizer. Weights of a WaveNet that was never trained are
    not stored.

    Raises ValueError, before anything is written, for a module that `load_model` could not load again, for a part that
    does not exist, and for weights beyond the range of float16; OSError if writing fails.
    """
    model, folder = _unwrapped(model), Path(folder)
    state = _saved_weights(model)
    for key in _not_stored(model):
        del state[key]
    for part in float16:
        keys = [key for key in state if key.startswith(f"{part}.")]
        if not keys:
            parts = ", ".join(sorted({key.partition(".")[0] for key in state}))
            raise ValueError(f"float16 names parts of the model ({parts}), got {part!r}")
        state |= {key: state[key].half() for key in keys if state[key].is_floating_point()}
        if beyond := [key for key in keys if not state[key].isfinite().all()]:
            raise ValueError(f"{beyond[0]} has values beyond the range of float16 (65504); leave {part} out of float16")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "model.safetensors", overwrite=True) as path:
        # write bytes, because save_file would create a file that only its owner may read
        path.write_bytes(save(state))
    facts = {"format": FORMAT, "kind": type(model).__name__, "config": to_dict(model.cfg)}
    save_json(folder / "config.json", facts, overwrite=True)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model within wrappers that replace it: what torch.compile, data parallelism and weight averaging return."""
    dynamo = sys.modules.get("torch._dynamo")  # its import takes a second, and it is there if anything was compiled
    while True:
        if dynamo is not None and isinstance(model, dynamo.OptimizedModule):
            model = cast(nn.Module, model._orig_mod)
        elif isinstance(model, DistributedDataParallel | nn.DataParallel | AveragedModel):
            model = model.module
        else:
            return model


def _saved_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights on the CPU, under the names that a new model of this kind has for them.

    Raises ValueError for another kind of module, and for weights of other names or shapes than its configuration
    gives, as parametrizations and sharding leave them.
    """
    kind = type(model).__name__
    if kind not in KINDS or type(model) is not _class(kind):
        raise ValueError(f"save_model saves {', '.join(KINDS)}, got {type(model).__qualname__}; pass the model itself")
    state = {
        name.replace(COMPILED_PART, ""): value.detach().cpu().contiguous()  # a part was compiled by itself
        for name, value in model.state_dict().items()
    }
    with torch.device("meta"):  # shapes without memory or random numbers
        expected = {name: value.shape for name, value in type(model)(model.cfg).state_dict().items()}
    shapes = {name: value.shape for name, value in state.items()}
    if different := sorted(name for name in expected | shapes if expected.get(name) != shapes.get(name)):
        name = different[0]
        got = [str(tuple(of[name])) if name in of else "none" for of in (expected, shapes)]
        raise ValueError(
            f"this {kind} does not have the weights of its configuration: {name} should be of shape {got[0]} and is "
            f"{got[1]}; remove parametrizations and gather sharded weights first"
        )
    return state


def _not_stored(model: nn.Module) -> tuple[str, ...]:
    """Names of weights that were never trained. A loaded model has them from their random initialisation."""
    return getattr(model, "untrained_weights", ())


@overload
def load_model(name: str | Path, device: str | torch.device | None = None) -> SpeechVQVAE: ...
@overload
def load_model(name: str | Path, device: str | torch.device | None = None, *, kind: type[Kind]) -> Kind: ...
@with_own_defaults
def load_model(
    name: str | Path, device: str | torch.device | None = None, *, kind: type[nn.Module] | None = None
) -> nn.Module:
    """Name of a shipped model ("mini"), folder, or Hugging Face Hub id -> the model, in evaluation mode.

    `device` is the CPU by default. `kind` is the expected class, by default SpeechVQVAE; nn.Module accepts any. Raises
    ModelError if there is no such model, if it is of another kind, if its files are damaged or were not written by
    vqaudio, and for a format version that this version of vqaudio does not read.
    """
    _one_thread_after_fork()
    folder = model_folder(name)
    facts = _read_facts(folder)
    kind = kind or _class("SpeechVQVAE")
    model_class = _class(facts["kind"])
    if not issubclass(model_class, kind):
        raise ModelError(
            f"{name} is a model of kind {facts['kind']}, but {kind.__name__} is required here; in Python, "
            f"load_model(..., kind={facts['kind']}) loads it"
        )
    try:
        model = model_class(from_dict(get_type_hints(model_class.__init__)["cfg"], facts["config"]))
    except ConfigError as error:
        raise ModelError(
            f"{folder / 'config.json'}: {error}; the model may have been saved by a newer vqaudio: update vqaudio"
        ) from error
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # PyTorch's words for sizes beyond memory
        raise ModelError(
            f"{folder / 'config.json'} describes a model that cannot be built ({str(error).splitlines()[0][:200]}); "
            "download or copy the model again"
        ) from error
    path = folder / "model.safetensors"
    if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
        raise ModelError(f"{path} is not a file; download or copy it again")
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{folder} has a config.json but no model.safetensors; copy that file there too") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged ({error}); download or copy it again") from error
    try:
        model.load_state_dict({key: model.state_dict()[key] for key in _not_stored(model)} | state)
    except RuntimeError as error:
        raise ModelError(f"{path} does not match its config.json: {error}") from error
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ModelError(
            f"{path} contains values that are not finite, in {broken[0]}; the training run diverged: use an earlier "
            "checkpoint or train again"
        )
    return model.eval().requires_grad_(False).to(device or "cpu")


@functools.cache
def _one_thread_after_fork() -> None:
    """From now on, a process that this one forks computes on one thread of PyTorch.

    GNU OpenMP does not survive a fork: once a model has been loaded on several threads, PyTorch would wait for ever in
    a forked process (multiprocessing.Pool) for threads that exist in the parent alone.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


def _class(kind: str) -> type[nn.Module]:
    """The class of a kind in KINDS; its module is imported only now."""
    return getattr(import_module(KINDS[kind]), kind)


def shipped_models() -> list[str]:
    """Names of the models that are part of the package, sorted."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def golden_recordings(folder: Path) -> list[Path]:
    """The recordings, examples/ID_original.flac, to which the golden tokens of a model belong, sorted."""
    return sorted(folder.glob("examples/*_original.flac"))


def model_folder(name: str | Path) -> Path:
    """The folder of a model as `load_model` takes it; a model on the Hugging Face Hub is downloaded.

    Raises ModelError if there is none.
    """
    if isinstance(name, str) and name in shipped_models():
        return PRETRAINED / name
    folder = Path(name)
    if folder.is_dir():
        return folder
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/")):
        return _download(name)
    raise ModelError(
        f"there is no model {str(name)!r}: it is neither a folder nor one of the shipped models "
        f"({', '.join(shipped_models()) or 'none'}); a Hugging Face Hub id has the form user/model"
    )


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["config.json", "model.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"there is no folder {hub_id!r}, and no model of that name could be downloaded from the Hugging Face Hub: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is not a file; download or copy the model again")
    try:
        facts = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a model: it has no config.json") from None
    except JSONError as error:
        raise ModelError(f"{path} is not JSON ({error}); download or copy the model again") from error
    if not isinstance(facts, dict) or "format" not in facts or "config" not in facts:
        raise ModelError(f"{path} was not written by vqaudio: it needs the keys format and config")
    if facts["format"] == 1:
        facts = {**facts, "config": upgrade(facts["config"])}
    elif facts["format"] != FORMAT:
        raise ModelError(
            f"{path} has format {facts['format']!r}, but this vqaudio reads formats 1 and {FORMAT}; "
            "use the version of vqaudio that saved the model"
        )
    if facts.get("kind") not in list(KINDS):
        raise ModelError(
            f"{path} is a model of kind {facts.get('kind')!r}, but this vqaudio reads only {', '.join(KINDS)}; "
            "use the version of vqaudio that saved the model"
        )
    return facts
