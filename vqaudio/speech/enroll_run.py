"""Where a run that adapts a model works, and where its model goes: there whole, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vqaudio.atomic import replace_folder, restore_folder
from vqaudio.checkpoint import save_model
from vqaudio.fingerprint import fingerprint
from vqaudio.speech.enroll import Adapted, adapt
from vqaudio.speech.enroll_config import AdaptConfig
from vqaudio.speech.enroll_data import NewSpeakers
from vqaudio.speech.model import SpeechVQVAE

SETTINGS = "settings.json"
MODEL_FILES = {"config.json", "model.safetensors"}


def check_target(out: Path, *, overwrite: bool) -> None:
    """Raises FileExistsError where a model must not be put: over one without `overwrite`, and over anything else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; a model is a folder: choose another --out")
    there = {path.name for path in out.iterdir()}
    if there - MODEL_FILES:
        raise FileExistsError(f"{out} holds more than a model ({min(there - MODEL_FILES)}); choose another --out")
    if there and not overwrite:
        raise FileExistsError(f"{out} exists already; pass --overwrite to replace it")


def adapt_to(
    out: Path, model: SpeechVQVAE, speech: NewSpeakers, cfg: AdaptConfig | None = None, *, overwrite: bool = False
) -> Adapted:
    """`adapt`, and the new model put in `out` by renaming: whole, with `overwrite` in place of a model that is there.

    Raises as `check_target` and `adapt` do, and OSError where it cannot write; nothing is left of a run that failed.
    One that was interrupted continues when it is asked for again.
    """
    cfg = cfg or AdaptConfig()
    check_target(out, overwrite=overwrite)
    with _work_beside(out, model, speech, cfg) as work:
        check_target(out, overwrite=overwrite)  # a model that a killed run had renamed aside is back now
        adapted = adapt(model, speech, cfg, work)
        save_model(adapted.model, work / "model")
        check_target(out, overwrite=overwrite)  # it took minutes
        replace_folder(work / "model", out)
    return adapted


@contextmanager
def _work_beside(out: Path, model: SpeechVQVAE, speech: NewSpeakers, cfg: AdaptConfig) -> Iterator[Path]:
    """A folder .NAME.adapting for the time of a run; it goes when the block ends or fails.

    It stays where the run was interrupted (a signal, a kill), and is handed out again to the same model, speech and
    configuration; others begin anew. Raises ValueError while another run works there.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.adapting")
    lock = FileLock(out.with_name(f".{out.name}.adapting.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another run is making {out}; wait for it, or choose another --out") from None
    try:
        restore_folder(out)  # now: what a killed run had renamed aside may be wanted before this one ends
        settings = _settings(model, speech, cfg)
        if _read(folder / SETTINGS) != settings:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / SETTINGS).write_text(settings, encoding="utf-8")
        try:
            yield folder
        except Exception:  # unlike SystemExit and KeyboardInterrupt, after which the same command continues
            _remove(folder, Path(lock.lock_file))
            raise
        _remove(folder, Path(lock.lock_file))
    finally:
        lock.release()


def _settings(model: SpeechVQVAE, speech: NewSpeakers, cfg: AdaptConfig) -> str:
    """All that must be the same for a run to continue."""
    facts: dict[str, Any] = {"config": asdict(cfg), "model": fingerprint({}, model.state_dict())}
    for name, utterances in (("train", speech.train), ("valid", speech.valid)):
        facts[name] = [(u.id, str(u.path.absolute()), u.speaker, u.seconds) for u in utterances]
    return json.dumps(facts, indent=1)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _remove(folder: Path, lock_file: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock_file.unlink(missing_ok=True)
