"""The training loop, for any module with `loss, logs = model(**batch)`.

Batches are a pure function of (step, slice), and all randomness inside the model is one of (seed, step, slice).
Resuming from a checkpoint is therefore exact: a run that was killed and resumed ends with the same weights as an
uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from tqdm import tqdm

from vqaudio.training import checkpoint
from vqaudio.training.checkpoint import TrainingError, TrainingState
from vqaudio.training.codebook_init import initialise_codebooks, initialised_from_data
from vqaudio.training.compilation import CompiledParts
from vqaudio.training.config import FitConfig
from vqaudio.training.ema import ParameterEMA
from vqaudio.training.health import FATAL, assess, gradient_norms
from vqaudio.training.launch import (
    caught_signals,
    cpu_threads,
    describe_launch,
    largest_over_processes,
    latest_checkpoint,
    make_accelerator,
    run_folder_locked,
)
from vqaudio.training.loader import Batch, Loader, part_weights, to_device
from vqaudio.training.metrics_file import MetricsFile, progress_metrics

Model = TypeVar("Model", bound=nn.Module)


def fit(
    model: Model,
    loader: Loader,
    cfg: FitConfig,
    out_dir: str | Path,
    *,
    evaluate: Callable[[Model], dict[str, float]] | None = None,
    save: Callable[[Model, Path], None] | None = None,
    facts: dict[str, Any] | None = None,
) -> Model:
    """Train `model` in place and return it in evaluation mode, with EMA weights if an EMA is used.

    Resumes from the newest checkpoint in `out_dir`, if there is one. SIGINT, SIGTERM and SIGHUP save a checkpoint and
    exit with status 128 + signal.

    Args:
        model: returns (loss (), logs {name: ()}) when called with a batch
        loader: provides the batch of each step
        cfg: hyperparameters
        out_dir: folder for checkpoints/ and metrics.jsonl
        evaluate: maps the model (evaluation mode, EMA weights) to validation metrics
        save: writes the model into a checkpoint folder in its own format; default: a state dict in safetensors
        facts: settings by name, JSON-serialisable, that must not change when a run is resumed

    Raises:
        TrainingError: the loss or a weight is not finite, a verdict stops the run (`stop_when_collapsed`), the newest
            checkpoint does not match or is beyond `cfg.steps`, another run has locked `out_dir`, or the launch mode is
            not supported
        OSError: a file cannot be written
        SystemExit: with 128 + signal, after a signal
    """
    run = _Run(model, loader, cfg, Path(out_dir), evaluate, save, facts or {})
    try:
        with cpu_threads(cfg.threads), run_folder_locked(run.out, run.accelerator), caught_signals() as caught:
            run.resume()
            for step, batches in run.batches():
                run.train_step(step, batches)
                run.after_step(step + 1)
                if stop := run.signal_after(step + 1, caught):
                    run.save(step + 1)
                    run.print_line(
                        f"stopped by signal {stop} after step {step + 1}; the same command resumes from there"
                    )
                    raise SystemExit(128 + stop)
            run.ema.apply()
    finally:
        run.close()
    return model.eval()


class _Run(Generic[Model]):
    """State shared by the steps of one call of `fit`."""

    def __init__(
        self,
        model: Model,
        loader: Loader,
        cfg: FitConfig,
        out: Path,
        evaluate: Callable[[Model], dict[str, float]] | None,
        save: Callable[[Model, Path], None] | None,
        facts: dict[str, Any],
    ):
        self.cfg, self.out, self.loader, self.evaluate, self.save_model = cfg, out, loader, evaluate, save
        self.facts = facts
        self.accelerator = make_accelerator(cfg, out)
        self.model = model.to(self.accelerator.device).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        betas = (cfg.betas[0], cfg.betas[1])
        optimizer = torch.optim.AdamW(parameters, lr=cfg.lr, betas=betas, weight_decay=cfg.weight_decay, fused=True)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.compiled = CompiledParts(model, cfg.compile, self.accelerator.device)
        self.ema = ParameterEMA(model, cfg.ema_decay)
        self.parts = self.accelerator.num_processes * cfg.gradient_accumulation_steps
        self.first_part = self.accelerator.process_index * cfg.gradient_accumulation_steps
        for quantizer in initialised_from_data(model):
            quantizer.forwards_per_step = cfg.gradient_accumulation_steps
        self.metrics = MetricsFile(out / "metrics.jsonl", self.accelerator.is_main_process)
        self.bar: tqdm[Any] | None = None
        self.start_step, self.data_wait_seconds, self.logged_at, self.logged_step = 0, 0.0, time.perf_counter(), 0
        self.logs: dict[str, list[Tensor]] = {}  # since the last row of metrics
        self.shown: dict[str, str] = {}

    # --- the steps ---

    def batches(self) -> Iterator[tuple[int, list[Batch]]]:
        """(step, slices of this process); the next batch is prepared in a second thread while a step runs."""

        def prepare(step: int) -> list[Batch]:
            return [
                self.loader.batch(step, self.first_part + i, self.parts)
                for i in range(self.cfg.gradient_accumulation_steps)
            ]

        with ThreadPoolExecutor(1) as thread:
            following = thread.submit(prepare, self.start_step)
            for step in range(self.start_step, self.cfg.steps):
                began = time.perf_counter()
                ready = following.result()
                self.data_wait_seconds += time.perf_counter() - began
                if step + 1 < self.cfg.steps:
                    following = thread.submit(prepare, step + 1)
                yield step, ready

    def signal_after(self, done: int, caught: list[int]) -> int:
        """The signal by which all processes stop after `done` updates, 0: none.

        With several GPU processes the signal is exchanged only at steps that write a row of metrics, where they
        synchronise anyway.
        """
        if self.accelerator.num_processes > 1 and self.accelerator.device.type != "cpu" and not self.is_logged(done):
            return 0
        return largest_over_processes(max(caught, default=0), self.accelerator)

    def is_logged(self, done: int) -> bool:
        """Whether a row of metrics is written after `done` updates."""
        return done % self.cfg.log_every == 0 or done in (self.cfg.steps, self.start_step + 1)

    def train_step(self, step: int, batches: list[Batch]) -> None:
        """One optimizer update from this process's slices of the global batch; nothing in it waits for a GPU."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.lr_at(step)
        logs: list[dict[str, Tensor]] = []
        weights = part_weights(batches, self.parts, self.accelerator.device)
        for i, batch in enumerate(batches):
            seed = np.random.SeedSequence([self.cfg.seed, step, self.first_part + i]).generate_state(1)[0]
            torch.manual_seed(int(seed))
            with self.accelerator.accumulate(self.wrapped):
                with self.compiled.used():
                    loss, metrics = self.wrapped(**to_device(batch, self.accelerator.device))
                loss, metrics = loss * weights[i], {name: value * weights[i] for name, value in metrics.items()}
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    metrics |= self.gradient_norms()
                self.optimizer.step()
                self.optimizer.zero_grad()
                logs.append({**metrics, "loss": loss.detach()})
        self.ema.update(step)
        for metrics in logs:
            for name, value in metrics.items():
                self.logs.setdefault(name, []).append(value.float())

    def gradient_norms(self) -> dict[str, Tensor]:
        """Gradient norms of the model and of its children before clipping; clips the gradients."""
        if not self.cfg.max_grad_norm:
            self.accelerator.unscale_gradients()
            return gradient_norms(self.model)
        norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.cfg.max_grad_norm))
        clipped = (norm / self.cfg.max_grad_norm).clamp(min=1)
        parts = {name: value * clipped for name, value in gradient_norms(self.model).items()}
        return {"gradient_norm": norm, **parts}

    def after_step(self, done: int) -> None:
        """Logging, evaluation and checkpointing, as due after `done` updates."""
        last = done == self.cfg.steps
        if self.is_logged(done):
            self.log(done)
        if self.evaluate and (done % self.cfg.evaluate_every == 0 or last):
            self.check_health(done, self.evaluation())
            self.model.train()
        if done % self.cfg.save_every == 0 or last:
            self.save(done)
        if self.bar is not None:
            self.bar.update()

    def log(self, done: int) -> None:
        """Log metrics and speed since the last row, averaged over steps and processes."""
        names = sorted(self.logs)
        values = torch.stack([torch.stack(self.logs[name]).mean() for name in names])
        self.logs.clear()
        values = torch.as_tensor(self.accelerator.reduce(values, reduction="mean")).tolist()
        row = dict(zip(names, values, strict=True))
        now, steps = time.perf_counter(), max(1, done - self.logged_step)
        elapsed = now - self.logged_at
        row |= {
            "lr": self.cfg.lr_at(done - 1),
            "steps_per_second": steps / elapsed,
            "data_wait_fraction": self.data_wait_seconds / elapsed,
        }
        if self.loader.seconds_per_step:
            row["rtf"] = steps * self.loader.seconds_per_step / elapsed  # audio seconds per wall second
        self.logged_at, self.logged_step, self.data_wait_seconds = now, done, 0.0
        self.record("train", done, row)
        if not math.isfinite(row["loss"]):
            raise self.diverged(f"the loss is {row['loss']}", done)

    def evaluation(self) -> dict[str, float]:
        """Validation metrics with EMA weights; the time spent here does not count towards training speed."""
        began = time.perf_counter()
        metrics: dict[str, float] = {}
        if self.accelerator.is_main_process and self.evaluate:
            self.model.eval()
            with self.ema.applied(), self._without_autocast():
                metrics = self.evaluate(self.model)
        (metrics,) = broadcast_object_list([metrics])
        self.logged_at += time.perf_counter() - began
        return metrics

    def check_health(self, done: int, metrics: dict[str, float]) -> None:
        """Log validation metrics with their verdict. Raises TrainingError for a verdict that is to stop the run."""
        verdict = assess(metrics, done, self.cfg.health)
        self.record("valid", done, {**metrics, "verdict": verdict.name})
        self.print_line(f"step {done}: {verdict}")
        if self.cfg.stop_when_collapsed and verdict.name in FATAL:
            raise TrainingError(f"stopped at step {done}, because training does not recover from this: {verdict}")

    def record(self, kind: str, done: int, row: Mapping[str, float | str]) -> None:
        """Write a row to metrics.jsonl and the tracker, and show it: in the bar on a terminal, otherwise as a line."""
        self.metrics.append({"kind": kind, "step": done, **row})
        self.accelerator.log({f"{kind}/{name}": v for name, v in row.items() if not isinstance(v, str)}, step=done)
        latest_metrics = progress_metrics(row, "valid " if kind == "valid" else "")
        self.shown |= latest_metrics
        if self.bar is not None and not self.bar.disable:
            self.bar.set_postfix(self.shown, refresh=False)
        else:
            self.print_line(f"step {done}: " + ", ".join(f"{name} {value}" for name, value in latest_metrics.items()))

    # --- resuming, saving and closing ---

    def resume(self) -> None:
        """Load the newest checkpoint, or start from scratch with codebook initialisation."""
        if (newest := latest_checkpoint(self.out / "checkpoints")) is not None:
            snapshot = checkpoint.read(newest, self.model, self.optimizer.optimizer, self._settings())
            if snapshot.step > self.cfg.steps:
                raise TrainingError(
                    f"{newest} is at step {snapshot.step}, beyond --fit.steps {self.cfg.steps}; give at least "
                    f"{snapshot.step} steps, or start a new run with another --out"
                )
            self.start_step = snapshot.step
            self.ema.load(snapshot.ema)
            if (scaler := self.accelerator.scaler) is not None:
                scaler.load_state_dict(snapshot.facts["scaler"])
            self.print_line(f"resuming from {newest}")
            if snapshot.facts["processes"] != self.accelerator.num_processes:
                self.print_line(
                    f"the checkpoint was written by {snapshot.facts['processes']} processes, this run has "
                    f"{self.accelerator.num_processes}: batches are the same, but rounding and random numbers inside "
                    "the model differ"
                )
        else:
            initialise_codebooks(self.model, self.loader, self.accelerator, self.cfg.codebook_init_batches)
        self.print_line(describe_launch(self.accelerator) + ", compiled" * bool(len(self.compiled)))
        self.metrics.truncate(self.start_step)
        quiet = not self.accelerator.is_main_process
        self.bar = tqdm(initial=self.start_step, total=self.cfg.steps, unit="step", disable=True if quiet else None)
        self.logged_at, self.logged_step = time.perf_counter(), self.start_step

    def _settings(self) -> dict[str, Any]:
        """Settings that must not change when the run is resumed."""
        fp16 = self.accelerator.scaler is not None
        own = {"fit.seed": self.cfg.seed, "fit.ema_decay": self.cfg.ema_decay, "fit.precision fp16": fp16}
        return {**self.facts, **own}

    def save(self, done: int) -> None:
        """Write the checkpoint after `done` updates (main process). Raises TrainingError if a weight is not finite."""
        if not all(value.isfinite().all() for value in self.model.state_dict().values()):
            raise self.diverged("some weights are not finite", done)
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            facts = {
                "processes": self.accelerator.num_processes,
                "settings": self._settings(),
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            optimizer = self.optimizer.optimizer.state_dict()
            snapshot = TrainingState(done, self.model.state_dict(), self.ema.values, optimizer, facts)
            checkpoint.write(self.out / "checkpoints", snapshot, self._save_averaged, self.cfg.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _save_averaged(self, folder: Path) -> None:
        with self.ema.applied(), self._without_autocast():
            if self.save_model is not None:
                self.save_model(self.model, folder)
            else:
                from safetensors.torch import save_model

                save_model(self.model, str(folder / "model.safetensors"))

    @contextmanager
    def _without_autocast(self) -> Iterator[None]:
        """Context manager: the model runs without the mixed precision that Accelerate wraps around its forward."""
        wrapped = self.model.__dict__.pop("forward", None)
        try:
            yield
        finally:
            if wrapped is not None:
                self.model.__dict__["forward"] = wrapped

    def diverged(self, what: str, done: int) -> TrainingError:
        """The error for a run that diverged after `done` updates."""
        return TrainingError(
            f"{what} at step {done}: the run diverged; its checkpoints, all from earlier steps, are in "
            f"{self.out / 'checkpoints'}; try a smaller --fit.lr or --fit.max_grad_norm, or --fit.precision no"
        )

    def close(self) -> None:
        """Remove everything that training attached to the model, and release the process group."""
        self.model.__dict__.pop("forward", None)
        for quantizer in initialised_from_data(self.model):
            quantizer.forwards_per_step = 1
        if self.bar is not None:
            self.bar.close()
        # dropped before the process group ends; otherwise PyTorch's reducer may block forever in its destructor
        self.wrapped = self.model
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def print_line(self, line: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(line)
