"""Trains by a recipe for a given time, measured on this machine, and stops at a deadline.

    python egs/gpu/timed.py recipes/train.py CONFIG.yaml --out RUN --budget 120 --deadline 420 -- --crops.batch_size 64

The learning rate decays to 0 at the end of a run, so the number of steps has to be known before: the first steps
(--first), without decay, measure the speed, and RUN/steps.json keeps the number of steps that --budget seconds hold.
Then the recipe runs again, from there. At the deadline, in seconds from now, it receives SIGTERM, saves a checkpoint
and ends; the same command continues it. Arguments after -- are passed to the recipe.

Exit code 0: the run is finished; 3: the time is over; otherwise that of the recipe.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import statistics
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vqaudio.atomic import save_json
from vqaudio.json_text import parse_json
from vqaudio.training.metrics_file import read_metrics

TIME_IS_OVER = 3  # exit code
STOPPED = 128 + signal.SIGTERM  # exit code of a recipe that saved a checkpoint on SIGTERM
READINGS = 4  # rows of metrics in the first steps; the first of them is slower


@dataclass(frozen=True)
class TimedConfig:
    """A run, and how long it may take."""

    recipe: Path
    """recipes/train.py or another one"""
    conf: Path
    """configuration of the run"""
    out: Path
    """folder of the run"""
    budget: float
    """seconds of training after which the run is finished, without those of evaluation and checkpoints"""
    first: int = 100
    """steps that measure the speed"""
    flags: tuple[str, ...] = ()
    """further flags of the recipe"""

    def __post_init__(self) -> None:
        if self.budget <= 0 or self.first < READINGS:
            raise ValueError(f"budget must be above 0 and first at least {READINGS}, got {self.budget}, {self.first}")


def steps_for(rows: Sequence[dict[str, float]], first: int, budget: float) -> int:
    """Rows of metrics with steps_per_second of the first steps -> number of steps that `budget` seconds hold.

    Always more than `first`, so that the learning rate decays. Raises ValueError without rows after the first.
    """
    speeds = [row["steps_per_second"] for row in rows if row["kind"] == "train" and first // READINGS < row["step"]]
    if not speeds:
        raise ValueError(f"no speed was logged in {first} steps; give --first a larger number")
    return max(first + READINGS, round(statistics.median(speeds) * budget))


def recipe(cfg: TimedConfig, *flags: str) -> int:
    """Runs the recipe in this process, as from the command line -> its exit code."""
    argv = [str(cfg.recipe), str(cfg.conf), "--out", str(cfg.out), *flags]
    before, sys.argv = sys.argv, argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    finally:
        sys.argv = before
    return 0


def train(cfg: TimedConfig) -> int:
    """Measures, if that was not done before, and trains -> exit code."""
    known, mark = cfg.out / "steps.json", cfg.out / "finished"
    if mark.exists():
        return 0
    if not known.exists():
        every = max(1, cfg.first // READINGS)
        rare = str(10**9)
        measuring = ("--fit.steps", str(cfg.first), "--fit.lr_decay_fraction", "0", "--fit.log_every", str(every))
        measuring += ("--fit.evaluate_every", rare, "--fit.save_every", rare)
        if code := recipe(cfg, *cfg.flags, *measuring):
            return code
        steps = steps_for(read_metrics(cfg.out / "metrics.jsonl"), cfg.first, cfg.budget)
        save_json(known, {"steps": steps, "budget": cfg.budget})
    steps = parse_json(known.read_bytes())["steps"]
    print(f"{cfg.out.name}: {steps} steps", flush=True)
    if code := recipe(cfg, "--fit.steps", str(steps), *cfg.flags):
        return code
    mark.touch()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("conf", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--budget", type=float, required=True, help="seconds of training of the whole run")
    parser.add_argument("--deadline", type=float, required=True, help="seconds from now at which it stops")
    parser.add_argument("--first", type=int, default=100, help="steps that measure the speed; default: %(default)s")
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    chosen = parser.parse_args(own)
    if chosen.deadline <= 0:
        return TIME_IS_OVER
    try:
        cfg = TimedConfig(chosen.recipe, chosen.conf, chosen.out, chosen.budget, chosen.first, tuple(flags))
        alarm = threading.Timer(chosen.deadline, os.kill, (os.getpid(), signal.SIGTERM))
        alarm.daemon = True
        alarm.start()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))  # between the two runs of the recipe
        code = train(cfg)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return TIME_IS_OVER if code == STOPPED else code


if __name__ == "__main__":
    sys.exit(main())
