"""Models on disk: config.json + model.safetensors in a folder, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from vqaudio.atomic import atomic_file
from vqaudio.config import ConfigError, from_dict, to_dict
from vqaudio.images.baselines import ImageGumbel, ImageVAE, ImageVIMCO
from vqaudio.images.hierarchical import CodeMapConfig, CodeMapVAE, CodeMapVQVAE
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE
from vqaudio.speech.config import CODE_PARTS
from vqaudio.speech.model import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.speech.new_speakers import SPEAKER_WEIGHT
from vqaudio.speech.prior import CodePrior, CodePriorConfig, ImagePrior, ImagePriorConfig

Kind = TypeVar("Kind", bound=nn.Module)
FORMAT = 1  # version of config.json and of the names in model.safetensors
PRETRAINED = Path(__file__).parent.parent / "pretrained"
CONFIGS: dict[type[nn.Module], type] = {
    SpeechVQVAE: SpeechVQVAEConfig,
    **dict.fromkeys((ImageVQVAE, ImageVAE, ImageVIMCO, ImageGumbel), ImageConfig),
    ImagePrior: ImagePriorConfig,
    CodePrior: CodePriorConfig,
    **dict.fromkeys((CodeMapVQVAE, CodeMapVAE), CodeMapConfig),
}
KINDS = {kind.__name__: kind for kind in CONFIGS}


class ModelError(ValueError):
    """A model that is not there or cannot be read; the message says why and what to do."""


def save_model(model: nn.Module, folder: str | Path) -> None:
    """Writes `folder`/config.json and model.safetensors of a model of this package, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "model.safetensors", overwrite=True) as path:
        # as bytes: save_file would make a file that nobody else may read
        path.write_bytes(save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}))
    facts = {"format": FORMAT, "kind": type(model).__name__, "config": to_dict(model.cfg)}
    with atomic_file(folder / "config.json", overwrite=True) as path:
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@overload
def load_model(name: str | Path, device: str | torch.device | None = None) -> SpeechVQVAE: ...
@overload
def load_model(name: str | Path, device: str | torch.device | None = None, *, kind: type[Kind]) -> Kind: ...
def load_model(
    name: str | Path, device: str | torch.device | None = None, *, kind: type[nn.Module] = SpeechVQVAE
) -> nn.Module:
    """A shipped name ("mini"), a folder, or a Hugging Face Hub id -> the model, ready to use (eval mode).

    kind: the class that it must be of; nn.Module takes any. Raises ModelError for a name that is none of these, for
    another kind of model, a damaged or foreign folder, another format version.
    """
    folder = _find(name)
    facts = _read_facts(folder)
    model_class = KINDS[facts["kind"]]
    if not issubclass(model_class, kind):
        raise ModelError(
            f"{name} is a model of kind {facts['kind']}, and {kind.__name__} is wanted here; from Python, "
            f"load_model(..., kind={facts['kind']}) loads it"
        )
    try:
        model = model_class(from_dict(CONFIGS[model_class], facts["config"]))
    except ConfigError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}; was the model made by a newer vqaudio?") from error
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{folder} has a config.json but no model.safetensors; copy it there too") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged ({error}); fetch it again") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit its config.json: {error}") from error
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ModelError(f"{path} holds numbers that are not finite, in {broken[0]}; the run that made it diverged")
    return model.eval().requires_grad_(False).to(device or "cpu")


def start_from(model: SpeechVQVAE, names: Sequence[str | Path]) -> dict[str | Path, list[str]]:
    """Gives `model` the weights of others, named as `load_model` takes them, wherever name and shape agree.

    Of two that agree, the later one's. What makes the codes (encoder, normalizer, quantizer) is taken whole or not at
    all, voices by their names, and of a decoder that has learned nothing (learn: codes) its voices alone. Returns, for
    each of them, the names of the weights that it did not give. Raises ModelError where one gives nothing, and where
    `model` is to keep its codes (learn: speech) but they are those of none of the others, or what has learned to read
    them (the context) would be lost.
    """
    left, fingerprints = {}, set[str]()
    for name in names:
        other = load_model(name)
        given = _give(model, other)
        if not given:
            raise ModelError(f"no weight of {name} has the name and shape of one that is to be trained")
        read_by = {key for key in other.state_dict() if key.startswith("context.")}
        if model.cfg.learn == "speech" and other.fingerprint == model.fingerprint and not read_by <= given:
            raise ModelError(
                f"the codes of {name} are read by its context, and this model has none of that shape: give it the same "
                f"--model.context.* ({other.cfg.context}), got {model.cfg.context}"
            )
        left[name] = sorted(model.state_dict().keys() - given)
        fingerprints.add(other.fingerprint)
    if model.cfg.learn == "speech" and model.fingerprint not in fingerprints:
        raise ModelError(
            "learn: speech keeps codes as they are, so `start` must name the model that they are from, with the same "
            f"encoder, normalizer and quantizer in its configuration; got {', '.join(map(str, names)) or 'none'}"
        )
    return left


@torch.no_grad()
def _give(model: SpeechVQVAE, other: SpeechVQVAE) -> set[str]:
    """Copies what agrees, as `start_from` says; its names."""
    theirs, own = other.state_dict(), model.state_dict()
    given = {key for key, value in own.items() if key in theirs and theirs[key].shape == value.shape}
    of_codes = {key for key in own if key.startswith(CODE_PARTS)}
    if not of_codes <= given:
        given -= of_codes
    if other.cfg.learn == "codes":
        given = {key for key in given if not key.startswith("decoder.")}
    given.discard(SPEAKER_WEIGHT)
    for key in given:
        own[key].copy_(theirs[key])
    shared = set(model.speakers) & set(other.speakers)
    if shared and own[SPEAKER_WEIGHT].shape[1] == theirs[SPEAKER_WEIGHT].shape[1]:
        for speaker in shared:
            own[SPEAKER_WEIGHT][model.speaker_id(speaker)] = theirs[SPEAKER_WEIGHT][other.speaker_id(speaker)]
        given |= {SPEAKER_WEIGHT} if len(shared) == len(model.speakers) else set()
    return given


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def _find(name: str | Path) -> Path:
    if isinstance(name, str) and name in shipped_models():
        return PRETRAINED / name
    folder = Path(name)
    if folder.is_dir():
        return folder
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/")):
        return _download(name)
    raise ModelError(
        f"there is no model {str(name)!r}: neither a folder nor one of the shipped models "
        f"({', '.join(shipped_models()) or 'none'}); a Hugging Face Hub id looks like user/model"
    )


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["config.json", "model.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"there is no folder {hub_id!r}, and the Hugging Face Hub did not give a model of that name: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is no model: it has no config.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not JSON ({error}); fetch the model again") from error
    if not isinstance(facts, dict) or "format" not in facts or "config" not in facts:
        raise ModelError(f"{path} was not written by vqaudio: it has no format and config")
    if facts["format"] != FORMAT:
        raise ModelError(
            f"{path} has format {facts['format']!r}, this vqaudio reads format {FORMAT}; "
            "use the version of vqaudio that made the model"
        )
    if facts.get("kind") not in list(KINDS):
        raise ModelError(f"{path} holds a {facts.get('kind')!r}, this vqaudio knows: {', '.join(KINDS)}")
    return facts
