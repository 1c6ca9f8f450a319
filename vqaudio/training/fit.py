"""Training is a function: loss, logs = model(**batch).

Batches are a pure function of (step, part), everything random inside the model one of (seed, step, part), and a
checkpoint holds the rest: a killed run that is resumed gives the weights of one that never stopped.
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
from vqaudio.training.codebook_init import initialise_codebooks, quantizers
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
    """Trains `model` in place and returns it, in evaluation mode, with averaged weights where they are averaged.

    Continues from the newest checkpoint in `out_dir`, if there is one. `evaluate` maps the model (evaluation mode,
    averaged weights) to figures; `save` writes it into a checkpoint's folder in its own format; `facts`, named settings
    that JSON can hold, must be the same when a run continues. SIGINT and SIGTERM save a checkpoint and exit with
    128 + signal. Raises TrainingError when the loss is no longer finite, when a
    checkpoint does not fit, and for ways to launch that are not supported; OSError where it cannot write.
    """
    run = _Run(model, loader, cfg, Path(out_dir), evaluate, save, facts or {})
    try:
        with cpu_threads(cfg.threads), run_folder_locked(run.out, run.accelerator), caught_signals() as caught:
            run.resume()
            for step, batches in run.batches():
                run.train_step(step, batches)
                run.after_step(step + 1)
                if stop := largest_over_processes(max(caught, default=0), run.accelerator):
                    run.save(step + 1)
                    run.print_line(
                        f"stopped by signal {stop} after step {step + 1}; the same command continues from there"
                    )
                    raise SystemExit(128 + stop)
            run.ema.apply()
    finally:
        run.close()
    return model.eval()


class _Run(Generic[Model]):
    """What the steps of one call of `fit` share."""

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
        self.ema = ParameterEMA(model, cfg.ema_decay)
        self.parts = self.accelerator.num_processes * cfg.gradient_accumulation_steps
        self.first_part = self.accelerator.process_index * cfg.gradient_accumulation_steps
        for quantizer in quantizers(model):
            quantizer.forwards_per_step = cfg.gradient_accumulation_steps
        self.metrics = MetricsFile(out / "metrics.jsonl", self.accelerator.is_main_process)
        self.bar: tqdm[Any] | None = None
        self.start_step, self.data_wait_seconds, self.logged_at, self.logged_step = 0, 0.0, time.perf_counter(), 0
        self.logs: dict[str, list[Tensor]] = {}  # since the last row
        self.shown: dict[str, str] = {}

    # --- the steps ---

    def batches(self) -> Iterator[tuple[int, list[Batch]]]:
        """(step, its parts for this process), each prepared by a second thread while the step before runs."""

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

    def train_step(self, step: int, batches: list[Batch]) -> None:
        """One update of the weights from this process's parts of the joint batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.lr_at(step)
        logs: list[dict[str, Tensor]] = []
        weights = part_weights(batches, self.parts, self.accelerator.device)
        for i, batch in enumerate(batches):
            seed = np.random.SeedSequence([self.cfg.seed, step, self.first_part + i]).generate_state(1)[0]
            torch.manual_seed(int(seed))
            with self.accelerator.accumulate(self.wrapped):
                loss, figures = self.wrapped(**to_device(batch, self.accelerator.device))
                loss, figures = loss * weights[i], {name: value * weights[i] for name, value in figures.items()}
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    figures |= self.gradient_norms()
                self.optimizer.step()
                self.optimizer.zero_grad()
                logs.append({**figures, "loss": loss.detach()})
        self.ema.update(step)
        for figures in logs:
            for name, value in figures.items():
                self.logs.setdefault(name, []).append(value.float())

    def gradient_norms(self) -> dict[str, Tensor]:
        """Of the whole model and of its parts, before they are clipped here."""
        if not self.cfg.max_grad_norm:
            self.accelerator.unscale_gradients()
            return gradient_norms(self.model)
        norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.cfg.max_grad_norm))
        clipped = (norm / self.cfg.max_grad_norm).clamp(min=1)
        parts = {name: value * clipped for name, value in gradient_norms(self.model).items()}
        return {"gradient_norm": norm, **parts}

    def after_step(self, done: int) -> None:
        """Rows of figures, evaluation, checkpoint: whatever is due after `done` updates."""
        last = done == self.cfg.steps
        if done % self.cfg.log_every == 0 or last or done == self.start_step + 1:
            self.log(done)
        if self.evaluate and (done % self.cfg.evaluate_every == 0 or last):
            self.check_health(done, self.evaluation())
            self.model.train()
        if done % self.cfg.save_every == 0 or last:
            self.save(done)
        if self.bar is not None:
            self.bar.update()

    def log(self, done: int) -> None:
        """Figures and speed since the last row, averaged over steps and processes."""
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
            "waiting": self.data_wait_seconds / elapsed,
        }
        if self.loader.seconds_per_step:
            row["audio_seconds_per_second"] = steps * self.loader.seconds_per_step / elapsed
        self.logged_at, self.logged_step, self.data_wait_seconds = now, done, 0.0
        self.record("train", done, row)
        if not math.isfinite(row["loss"]):
            raise self.diverged(f"the loss is {row['loss']}", done)

    def evaluation(self) -> dict[str, float]:
        """The caller's figures for the averaged weights; the time that it takes is not counted as training."""
        began = time.perf_counter()
        figures: dict[str, float] = {}
        if self.accelerator.is_main_process and self.evaluate:
            self.model.eval()
            with self.ema.applied(), self._without_autocast():
                figures = self.evaluate(self.model)
        (figures,) = broadcast_object_list([figures])
        self.logged_at += time.perf_counter() - began
        return figures

    def check_health(self, done: int, figures: dict[str, float]) -> None:
        """Figures of an evaluation with the verdict on them. Raises TrainingError for one that is to end the run."""
        verdict = assess(figures, done, self.cfg.health)
        self.record("valid", done, {**figures, "verdict": verdict.name})
        self.print_line(f"step {done}: {verdict}")
        if self.cfg.stop_when_collapsed and verdict.name in FATAL:
            raise TrainingError(f"stopped at step {done}, since more steps would not mend it: {verdict}")

    def record(self, kind: str, done: int, row: Mapping[str, float | str]) -> None:
        """To metrics.jsonl, the tracker, and the eyes: the bar on a terminal, lines elsewhere."""
        self.metrics.append({"kind": kind, "step": done, **row})
        self.accelerator.log({f"{kind}/{name}": v for name, v in row.items() if not isinstance(v, str)}, step=done)
        latest_metrics = progress_metrics(row, "valid " if kind == "valid" else "")
        self.shown |= latest_metrics
        if self.bar is not None and not self.bar.disable:
            self.bar.set_postfix(self.shown, refresh=False)
        else:
            self.print_line(f"step {done}: " + ", ".join(f"{name} {value}" for name, value in latest_metrics.items()))

    # --- beginning, end, and what lies between two runs ---

    def resume(self) -> None:
        """From the newest checkpoint, or from the beginning: then codebooks take their first values from data."""
        if (newest := latest_checkpoint(self.out / "checkpoints")) is not None:
            snapshot = checkpoint.read(newest, self.model, self.optimizer.optimizer, self._settings())
            self.start_step = snapshot.step
            self.ema.load(snapshot.ema)
            if (scaler := self.accelerator.scaler) is not None:
                scaler.load_state_dict(snapshot.facts["scaler"])
            self.print_line(f"continuing from {newest}")
            if snapshot.facts["processes"] != self.accelerator.num_processes:
                self.print_line(
                    f"it was written by {snapshot.facts['processes']} processes, now there are "
                    f"{self.accelerator.num_processes}: the same batches, but rounding and what is random inside the "
                    "model differ"
                )
        else:
            initialise_codebooks(self.model, self.loader, self.accelerator, self.cfg.codebook_init_batches)
        self.print_line(describe_launch(self.accelerator))
        self.metrics.truncate(self.start_step)
        quiet = not self.accelerator.is_main_process
        self.bar = tqdm(initial=self.start_step, total=self.cfg.steps, unit="step", disable=True if quiet else None)
        self.logged_at, self.logged_step = time.perf_counter(), self.start_step

    def _settings(self) -> dict[str, Any]:
        """What a run must continue with as it began."""
        fp16 = self.accelerator.scaler is not None
        own = {"fit.seed": self.cfg.seed, "fit.ema_decay": self.cfg.ema_decay, "fit.precision fp16": fp16}
        return {**self.facts, **own}

    def save(self, done: int) -> None:
        """A checkpoint of `done` updates, by the main process. Raises TrainingError for weights that are not finite."""
        if not all(value.isfinite().all() for value in self.model.state_dict().values()):
            raise self.diverged("there are weights that are not finite", done)
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
        """Within, the model computes as its owner made it: Accelerate puts mixed precision around its forward."""
        wrapped = self.model.__dict__.pop("forward", None)
        try:
            yield
        finally:
            if wrapped is not None:
                self.model.__dict__["forward"] = wrapped

    def diverged(self, what: str, done: int) -> TrainingError:
        """The error to raise."""
        return TrainingError(
            f"{what} at step {done}: the run diverged; its checkpoints, all from before, are in "
            f"{self.out / 'checkpoints'}; try a smaller --fit.lr or --fit.max_grad_norm, or --fit.precision no"
        )

    def close(self) -> None:
        """Leaves the model as its owner knows it."""
        self.model.__dict__.pop("forward", None)
        for quantizer in quantizers(self.model):
            quantizer.forwards_per_step = 1
        if self.bar is not None:
            self.bar.close()
        # before the process group ends: PyTorch's reducer, were it the last to let go of it, could wait for ever
        self.wrapped = self.model
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def print_line(self, line: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(line)
