"""How long, how fast and how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vqaudio.training.health import HealthConfig

_COUNTS = (
    "steps",
    "gradient_accumulation_steps",
    "codebook_init_batches",
    "log_every",
    "evaluate_every",
    "save_every",
    "keep_checkpoints",
)


@dataclass(frozen=True)
class FitConfig:
    """Of `fit`; one step is one update of the weights."""

    steps: int = 1000
    """updates in all; a resumed run counts those before"""
    lr: float = 6e-4
    """highest learning rate of AdamW"""
    lr_warmup_steps: int = 50
    """steps over which the learning rate rises from 0"""
    lr_decay_fraction: float = 0.3
    """last part of the steps over which it falls to 0, linearly"""
    betas: tuple[float, ...] = (0.9, 0.99)
    """of AdamW: how slowly the averages of gradient and squared gradient move"""
    weight_decay: float = 0.0
    """of AdamW"""
    max_grad_norm: float = 1.0
    """largest norm of the gradient; 0: not clipped"""
    gradient_accumulation_steps: int = 1
    """forward passes per step on each process; the joint batch is divided, not multiplied"""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """of the arithmetic in training; auto: bf16 where the machine is fast at it, else no (float32)"""
    threads: int = 0
    """CPU threads of each process; 0: as OMP_NUM_THREADS says; under `accelerate launch`, which writes a 1 there where
    nobody said how many, a 1 stands for the machine's processors divided among its processes"""
    ema_decay: float = 0.99
    """how slowly the moving average of the weights moves that is evaluated and saved; 0: the weights as they are"""
    seed: int = 0
    """with step and process, of everything random inside the model"""
    codebook_init_batches: int = 16
    """batches whose vectors give the codebook its first values"""
    log_every: int = 10
    """steps between two rows of training figures"""
    evaluate_every: int = 100
    """steps between two evaluations"""
    save_every: int = 500
    """steps between two checkpoints"""
    keep_checkpoints: int = 2
    """checkpoints kept, the newest ones"""
    tracker: Literal["none", "tensorboard"] = "none"
    """where curves go beside metrics.jsonl"""
    health: HealthConfig = field(default_factory=HealthConfig)
    stop_when_collapsed: bool = False
    """end the run at a verdict that more steps do not mend: diverged, codebook collapsed, codes ignored"""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "lr_warmup_steps", "weight_decay", "max_grad_norm", "threads", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number, 0 or more, got {getattr(self, name)}")
        if not 0 <= self.lr_decay_fraction <= 1 or not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"lr_decay_fraction must lie in [0, 1] and ema_decay in [0, 1), got {self.lr_decay_fraction} and {self.ema_decay}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: up over `warmup`, level, down over the last `decay` of the steps."""
        rise = min(1.0, (step + 1) / self.lr_warmup_steps) if self.lr_warmup_steps else 1.0
        falling = self.lr_decay_fraction * self.steps
        fall = min(1.0, (self.steps - step) / falling) if falling else 1.0
        return self.lr * rise * max(0.0, fall)
