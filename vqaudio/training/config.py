"""Hyperparameters of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vqaudio.training.compilation import Compile
from vqaudio.training.health import HealthConfig

MAX_THREADS = 1024  # more is a mistake, and the system may refuse to start them
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
    """Options of `fit`. One step is one optimizer update."""

    steps: int = 1000
    """total number of optimizer updates, including those before a resume"""
    lr: float = 6e-4
    """peak learning rate of AdamW"""
    lr_warmup_steps: int = 50
    """steps of linear learning-rate warm-up from 0"""
    lr_decay_fraction: float = 0.3
    """final fraction of the steps in which the learning rate decays linearly to 0"""
    betas: tuple[float, ...] = (0.9, 0.99)
    """beta coefficients of AdamW"""
    weight_decay: float = 0.0
    """weight decay of AdamW"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this norm; 0: no clipping"""
    gradient_accumulation_steps: int = 1
    """forward passes per step on each process; they divide the global batch and do not enlarge it"""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """mixed precision of training; auto: bf16 or fp16 if `accelerate launch` or its configuration sets it, otherwise
    bf16 if the hardware supports it natively, else no (float32)"""
    compile: Compile = "auto"
    """whether a WaveNet goes through torch.compile in training: true, false, or auto: on a GPU, if Triton and a C
    compiler are there. It takes half a minute at the start; results differ by rounding"""
    threads: int = 0
    """CPU threads per process; 0: OMP_NUM_THREADS. `accelerate launch` sets that to 1 if it is unset; a 1 under
    `accelerate launch` therefore means all cores divided by the number of processes"""
    ema_decay: float = 0.99
    """decay of the exponential moving average (EMA) of the weights, which is evaluated and saved; 0: no EMA"""
    seed: int = 0
    """random seed; together with step and process it determines all randomness inside the model"""
    codebook_init_batches: int = 16
    """number of batches whose encoder outputs initialise the codebook (k-means)"""
    log_every: int = 10
    """steps between two rows of training metrics"""
    evaluate_every: int = 100
    """steps between two evaluations"""
    save_every: int = 500
    """steps between two checkpoints"""
    keep_checkpoints: int = 2
    """number of most recent checkpoints to keep"""
    tracker: Literal["none", "tensorboard"] = "none"
    """experiment tracker to log to in addition to metrics.jsonl"""
    health: HealthConfig = field(default_factory=HealthConfig)
    stop_when_collapsed: bool = False
    """stop the run at a verdict from which it does not recover: diverged, codebook collapse or posterior collapse"""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "lr_warmup_steps", "weight_decay", "max_grad_norm", "threads", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number, 0 or more, got {getattr(self, name)}")
        if self.threads > MAX_THREADS:
            raise ValueError(f"threads must be at most {MAX_THREADS}, got {self.threads}; 0 uses OMP_NUM_THREADS")
        if self.seed >= 2**32:
            raise ValueError(f"seed must lie in 0..2**32 - 1, got {self.seed}")
        if not 0 <= self.lr_decay_fraction <= 1 or not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"lr_decay_fraction must lie in [0, 1] and ema_decay in [0, 1), got {self.lr_decay_fraction} and "
                f"{self.ema_decay}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")

    def lr_at(self, step: int) -> float:
        """Learning rate at step 0, 1, ...: linear warm-up, constant, linear decay to 0."""
        warmup = min(1.0, (step + 1) / self.lr_warmup_steps) if self.lr_warmup_steps else 1.0
        decay_steps = self.lr_decay_fraction * self.steps
        decay = min(1.0, (self.steps - step) / decay_steps) if decay_steps else 1.0
        return self.lr * warmup * max(0.0, decay)
