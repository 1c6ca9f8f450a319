"""Runs `adapt` in a working folder and moves the finished model to its place in one rename."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vqaudio.atomic import check_names_folder, replace_folder, restore_folder
from vqaudio.checkpoint import save_model
from vqaudio.fingerprint import fingerprint
from vqaudio.speech.enroll import Adapted, adapt
from vqaudio.speech.enroll_config import AdaptConfig
from vqaudio.speech.enroll_data import NewSpeakers
from vqaudio.speech.model import SpeechVQVAE

SETTINGS = "settings.json"
MODEL_FILES = {"config.json", "model.safetensors"}


def check_target(out: Path, *, overwrite: bool) -> None:
    """Raises FileExistsError if `out` is a model and `overwrite` is not set, or if it is anything else than a model."""
    check_names_folder(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file, but a model is a folder; choose another --out")
    names = {path.name for path in out.iterdir()}
    if names - MODEL_FILES:
        raise FileExistsError(
            f"{out} contains files that are not part of a model ({min(names - MODEL_FILES)}); choose another --out"
        )
    if names and not overwrite:
        raise FileExistsError(f"{out} exists already; pass --overwrite to replace it")


def adapt_to(
    out: Path, model: SpeechVQVAE, speech: NewSpeakers, cfg: AdaptConfig | None = None, *, overwrite: bool = False
) -> Adapted:
    """Calls `adapt` and saves the new model in the folder `out`, atomically.

    With `overwrite`, it replaces a model in `out`. Raises what `check_target` and `adapt` raise, and OSError if writing
    fails; a run that fails leaves no files behind. An interrupted run continues when it is called again with the same
    arguments.
    """
    cfg = cfg or AdaptConfig()
    check_target(out, overwrite=overwrite)
    with _work_beside(out, model, speech, cfg) as work:
        check_target(out, overwrite=overwrite)  # a model that a killed run had moved aside has been restored by now
        adapted = adapt(model, speech, cfg, work)
        save_model(adapted.model, work / "model")
        check_target(out, overwrite=overwrite)  # once more, because training took minutes
        replace_folder(work / "model", out)
    return adapted


@contextmanager
def _work_beside(out: Path, model: SpeechVQVAE, speech: NewSpeakers, cfg: AdaptConfig) -> Iterator[Path]:
    """The working folder .NAME.adapting beside `out`; it is removed when the block ends or fails.

    It is kept if the run is interrupted (by a signal or a kill) and reused by a run with the same model, speech and
    configuration; a run with other settings empties it. Raises ValueError while another run uses it.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.adapting")
    lock = FileLock(out.with_name(f".{out.name}.adapting.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another run is writing {out}; wait until it has finished, or choose another --out") from None
    try:
        restore_folder(out)  # at once: the model that a killed run moved aside may be needed before this one ends
        settings = _settings(model, speech, cfg)
        if _read_if_present(folder / SETTINGS) != settings:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / SETTINGS).write_text(settings, encoding="utf-8")
        try:
            yield folder
        except Exception:  # not SystemExit and KeyboardInterrupt: after those, the same command continues the run
            _remove(folder, Path(lock.lock_file))
            raise
        _remove(folder, Path(lock.lock_file))
    finally:
        lock.release()


def _settings(model: SpeechVQVAE, speech: NewSpeakers, cfg: AdaptConfig) -> str:
    """Everything that must be equal for an interrupted run to be continued, as JSON."""
    facts: dict[str, Any] = {"config": asdict(cfg), "model": fingerprint({}, model.state_dict())}
    for name, utterances in (("train", speech.train), ("valid", speech.valid)):
        facts[name] = [(u.id, hashlib.sha256(u.path.read_bytes()).hexdigest(), u.speaker) for u in utterances]
    return json.dumps(facts, indent=1)


def _read_if_present(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _remove(folder: Path, lock_file: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock_file.unlink(missing_ok=True)
