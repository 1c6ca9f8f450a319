"""Training is a function: loss, logs = model(**batch).

Batches are a pure function of (step, part), everything random inside the model one of (seed, step, part), and a
checkpoint holds the rest: a killed run that is resumed gives the weights of one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vqaudio.nn.quantizer import VectorQuantizer
from vqaudio.training import checkpoint
from vqaudio.training.average import WeightAverage
from vqaudio.training.checkpoint import Snapshot, TrainingError
from vqaudio.training.config import FitConfig
from vqaudio.training.launch import alone_in_folder, caught_signals, make_accelerator
from vqaudio.training.metrics import MetricsFile

Batch = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


class Loader(Protocol):
    """What `fit` trains on."""

    @property
    def seconds_per_step(self) -> float:
        """Audio seconds in the joint batch of a step; 0 for what is not audio."""
        ...

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """The `part`-th of `parts` equal slices of a step's joint batch, a pure function of its arguments."""
        ...


def fit(
    model: Model,
    loader: Loader,
    cfg: FitConfig,
    out_dir: str | Path,
    *,
    evaluate: Callable[[Model], dict[str, float]] | None = None,
    save: Callable[[Model, Path], None] | None = None,
) -> Model:
    """Trains `model` in place and returns it, in evaluation mode, with averaged weights where they are averaged.

    Continues from the newest checkpoint in `out_dir`, if there is one. `evaluate` maps the model (evaluation mode,
    averaged weights) to figures; `save` writes it into a checkpoint's folder in its own format. SIGINT and SIGTERM
    save a checkpoint and exit with 128 + signal. Raises TrainingError when the loss is no longer finite, when a
    checkpoint does not fit, and for ways to launch that are not supported.
    """
    run = _Run(model, loader, cfg, Path(out_dir), evaluate, save)
    with alone_in_folder(run.out, run.accelerator), caught_signals() as caught:
        run.resume()
        for step, batches in run.batches():
            run.train_step(step, batches)
            run.after_step(step + 1)
            if stop := run.agreed(max(caught, default=0)):
                run.save(step + 1)
                run.close()
                run.say(f"stopped by signal {stop} after step {step + 1}; the same command continues from there")
                raise SystemExit(128 + stop)
    return run.finish()


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
    ):
        self.cfg, self.out, self.loader, self.evaluate, self.save_model = cfg, out, loader, evaluate, save
        self.accelerator = make_accelerator(cfg, out)
        self.model = model.to(self.accelerator.device).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        betas = (cfg.betas[0], cfg.betas[1])
        optimizer = torch.optim.AdamW(parameters, lr=cfg.lr, betas=betas, weight_decay=cfg.weight_decay, fused=True)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.average = WeightAverage(model, cfg.average)
        self.parts = self.accelerator.num_processes * cfg.accumulate
        self.first_part = self.accelerator.process_index * cfg.accumulate
        for quantizer in self._quantizers():
            quantizer.forwards_per_step = cfg.accumulate
        self.metrics = MetricsFile(out / "metrics.jsonl", self.accelerator.is_main_process)
        self.bar: tqdm[Any] | None = None
        self.start, self.waited, self.logged_at, self.logged_step = 0, 0.0, time.perf_counter(), 0
        self.logs: dict[str, Tensor] = {}
        self.shown: dict[str, str] = {}

    # --- the steps ---

    def batches(self) -> Iterator[tuple[int, list[Batch]]]:
        """(step, its parts for this process), each prepared by a second thread while the step before runs."""

        def prepare(step: int) -> list[Batch]:
            return [self.loader.batch(step, self.first_part + i, self.parts) for i in range(self.cfg.accumulate)]

        with ThreadPoolExecutor(1) as thread:
            following = thread.submit(prepare, self.start)
            for step in range(self.start, self.cfg.steps):
                began = time.perf_counter()
                ready = following.result()
                self.waited += time.perf_counter() - began
                if step + 1 < self.cfg.steps:
                    following = thread.submit(prepare, step + 1)
                yield step, ready

    def train_step(self, step: int, batches: list[Batch]) -> None:
        """One update of the weights from this process's parts of the joint batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.lr_at(step)
        logs: list[dict[str, Tensor]] = []
        for i, batch in enumerate(batches):
            seed = np.random.SeedSequence([self.cfg.seed, step, self.first_part + i]).generate_state(1)[0]
            torch.manual_seed(int(seed))
            with self.accelerator.accumulate(self.wrapped):
                loss, figures = self.wrapped(**_to(batch, self.accelerator.device))
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients and self.cfg.clip:
                    norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.cfg.clip)
                    figures["gradient_norm"] = torch.as_tensor(norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
                logs.append({**figures, "loss": loss.detach()})
        self.average.update(step)
        names = logs[-1].keys()
        self.logs = {name: torch.stack([row[name] for row in logs if name in row]).float().mean() for name in names}

    def after_step(self, done: int) -> None:
        """Rows of figures, evaluation, checkpoint: whatever is due after `done` updates."""
        last = done == self.cfg.steps
        if done % self.cfg.log_every == 0 or last or done == self.start + 1:
            self.log(done)
        if self.evaluate and (done % self.cfg.evaluate_every == 0 or last):
            self.record("valid", done, self.evaluation())
            self.model.train()
        if done % self.cfg.save_every == 0 or last:
            self.save(done)
        if self.bar is not None:
            self.bar.update()

    def log(self, done: int) -> None:
        """The figures of this step, averaged over the processes, and the speed since the last row."""
        names = sorted(self.logs)
        values = torch.stack([self.logs[name] for name in names])
        values = torch.as_tensor(self.accelerator.reduce(values, reduction="mean")).tolist()
        row = dict(zip(names, values, strict=True))
        now, steps = time.perf_counter(), max(1, done - self.logged_step)
        elapsed = now - self.logged_at
        row |= {"lr": self.cfg.lr_at(done - 1), "steps_per_second": steps / elapsed, "waiting": self.waited / elapsed}
        if self.loader.seconds_per_step:
            row["audio_seconds_per_second"] = steps * self.loader.seconds_per_step / elapsed
        self.logged_at, self.logged_step, self.waited = now, done, 0.0
        self.record("train", done, row)
        if not math.isfinite(row["loss"]):
            self.close()
            raise TrainingError(
                f"the loss is {row['loss']} at step {done}: the run diverged; checkpoints from before it are kept in "
                f"{self.out / 'checkpoints'}; try a smaller --fit.lr or --fit.clip, or --fit.precision no"
            )

    def evaluation(self) -> dict[str, float]:
        """The caller's figures for the averaged weights, the same on all processes' clocks."""
        began = time.perf_counter()
        figures: dict[str, float] = {}
        if self.accelerator.is_main_process and self.evaluate:
            self.model.eval()
            with self.average.applied():
                figures = self.evaluate(self.model)
        self.accelerator.wait_for_everyone()
        self.logged_at += time.perf_counter() - began
        return figures

    def record(self, kind: str, done: int, row: dict[str, float]) -> None:
        """To metrics.jsonl, the tracker, and the eyes: the bar on a terminal, lines elsewhere."""
        self.metrics.append({"kind": kind, "step": done, **row})
        self.accelerator.log({f"{kind}/{name}": value for name, value in row.items()}, step=done)
        named = {"bits_per_sample": "bits", "perplexity": "perplexity", "usage": "usage", "gap_codes": "gap"}
        named |= {"gap_speakers": "voice gap", "audio_seconds_per_second": "x real time"}
        prefix = "valid " if kind == "valid" else ""
        shown = {prefix + short: f"{row[name]:.4g}" for name, short in named.items() if name in row}
        shown = shown or {prefix + name: f"{value:.4g}" for name, value in row.items()}
        self.shown |= shown
        if self.bar is not None and not self.bar.disable:
            self.bar.set_postfix(self.shown, refresh=False)
        else:
            self.say(f"step {done}: " + ", ".join(f"{name} {value}" for name, value in shown.items()))

    # --- beginning, end, and what lies between two runs ---

    def resume(self) -> None:
        """From the newest checkpoint, or from the beginning: then codebooks take their first values from data."""
        folder = self.out / "checkpoints"
        if found := checkpoint.complete(folder):
            snapshot = checkpoint.read(found[-1], self.model, self.optimizer.optimizer)
            self.start = snapshot.step
            self.average.load(snapshot.average)
            if (scaler := self.accelerator.scaler) is not None:
                scaler.load_state_dict(snapshot.facts["scaler"])
            self.say(f"continuing from {found[-1]}")
            if snapshot.facts["processes"] != self.accelerator.num_processes:
                self.say(
                    f"it was written by {snapshot.facts['processes']} processes, now there are "
                    f"{self.accelerator.num_processes}: the same batches, other rounding"
                )
        else:
            self._first_values()
        self.metrics.truncate(self.start)
        quiet = not self.accelerator.is_main_process
        self.bar = tqdm(initial=self.start, total=self.cfg.steps, unit="step", disable=True if quiet else None)
        self.logged_at, self.logged_step = time.perf_counter(), self.start

    def _first_values(self) -> None:
        """Gives every codebook the vectors of several batches, more than one batch holds, for its k-means."""
        seen: dict[VectorQuantizer, list[Tensor]] = {quantizer: [] for quantizer in self._quantizers()}

        def keep(quantizer: nn.Module, inputs: tuple[Any, ...]) -> None:
            assert isinstance(quantizer, VectorQuantizer)
            seen[quantizer].append(quantizer.valid_rows(*inputs))

        hooks = [quantizer.register_forward_pre_hook(keep) for quantizer in seen]
        with torch.no_grad(), self.accelerator.autocast():
            for step in range(self.cfg.first_batches if seen else 0):
                batch = self.loader.batch(step, self.accelerator.process_index, self.accelerator.num_processes)
                self.model(**_to(batch, self.accelerator.device))
        for hook in hooks:
            hook.remove()
        for quantizer, rows in seen.items():
            quantizer.initialise(torch.cat(rows))

    def save(self, done: int) -> None:
        """A checkpoint of `done` updates, by the main process."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            facts = {
                "processes": self.accelerator.num_processes,
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            optimizer = self.optimizer.optimizer.state_dict()
            snapshot = Snapshot(done, self.model.state_dict(), self.average.values, optimizer, facts)
            checkpoint.write(self.out / "checkpoints", snapshot, self._save_averaged, self.cfg.keep)
        self.accelerator.wait_for_everyone()

    def _save_averaged(self, folder: Path) -> None:
        with self.average.applied():
            if self.save_model is not None:
                self.save_model(self.model, folder)
            else:
                from safetensors.torch import save_model

                save_model(self.model, str(folder / "model.safetensors"))

    def finish(self) -> Model:
        """The trained model."""
        self.close()
        for quantizer in self._quantizers():
            quantizer.forwards_per_step = 1
        self.average.keep()
        return self.model.eval()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.accelerator.end_training()

    def agreed(self, signal_number: int) -> int:
        """The largest of the processes' numbers: all of them stop after the same step."""
        if self.accelerator.num_processes == 1:
            return signal_number
        mine = torch.tensor([signal_number], device=self.accelerator.device)
        return int(torch.as_tensor(self.accelerator.gather(mine)).max())

    def say(self, line: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(line)

    def _quantizers(self) -> list[VectorQuantizer]:
        return [module for module in self.model.modules() if isinstance(module, VectorQuantizer)]


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
