"""The vector quantizer of the paper (van den Oord et al., arXiv 1711.00937), and variants of how it is trained.

Letters: B batch, D code width, K number of codes, *S any spatial axes, M valid vectors of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.fingerprint import FingerprintFields
from vqaudio.kernels.library import MAX_SIZE, kernels
from vqaudio.kernels.nearest import nearest_code
from vqaudio.nn.distributed import broadcast_from_first, draw_rows, draw_rows_on_device, global_size, sum_over_processes
from vqaudio.nn.modes import is_traced
from vqaudio.nn.quantizer_protocol import (
    MAX_CODES,
    Quantized,
    check_width,
    perplexity,
    recent_usage,
    usage_metrics,
    valid_rows,
)

MAX_DIM = 2**16  # more is a mistake
NEAREST_ROWS = 4096  # vectors compared at once: bounds the memory of the distances to this many rows


@dataclass(frozen=True)
class VectorQuantizerConfig:
    """Paper: K = 512, beta = 0.25. The rest is not stated there."""

    FINGERPRINT: ClassVar = FingerprintFields(
        always={"codebook_size": "codes"},
        unless_default=("kind", "unit_norm"),
        by_weights=("dim",),
        never=(
            "codebook_update",  # another way of training gives other weights, or an additional one
            "ema_decay",
            "commitment_weight",
            "commitment_start",
            "commitment_warmup_steps",
            "kmeans_iterations",
            "restart_threshold",
            "rotation_trick",
        ),
    )

    kind: Literal["vq"] = "vq"
    """vq: a codebook of vectors. Other kinds have other options: `--model.quantizer.kind fsq --help`"""
    codebook_size: int = 512
    """K, size of the codebook"""
    dim: int = 64
    """D, dimension of a code vector"""
    codebook_update: Literal["ema", "gradient", "simvq"] = "ema"
    """how the codebook is trained. ema: moving averages of the vectors (appendix A.1); gradient: the codebook loss
    (equation 3); simvq: the codebook loss, for a frozen random codebook with one linear layer (arXiv 2411.02038)"""
    ema_decay: float = 0.99
    """decay of the moving averages per optimizer step"""
    commitment_weight: float = 0.25
    """beta, final weight of the commitment loss"""
    commitment_start: float = 0.0
    """weight of the commitment loss at step 0; it grows linearly, because the loss can collapse the codebook while the
    decoder does not use the codes yet"""
    commitment_warmup_steps: int = 500
    """steps of linear growth from commitment_start to commitment_weight; 0: commitment_weight from the first step"""
    kmeans_iterations: int = 10
    """iterations of k-means in codebook initialisation; 0: codes are initialised with random vectors of the batches"""
    restart_threshold: float = 0.1
    """codes chosen less often than this fraction of the mean are restarted at vectors of the batch; 0: never"""
    unit_norm: bool = False
    """scale vectors and codes to norm sqrt(D), so that only directions are compared (Yu et al., arXiv 2110.04627)"""
    rotation_trick: bool = False
    """rotate and rescale the gradient from the code to the encoder output, instead of copying it (Fifty et al., arXiv
    2410.06424)"""

    def __post_init__(self) -> None:
        if not 2 <= self.codebook_size <= MAX_CODES or not 1 <= self.dim <= MAX_DIM:
            raise ValueError(
                f"codebook_size must lie in 2 to {MAX_CODES} and dim in 1 to {MAX_DIM}, got {self.codebook_size} and "
                f"{self.dim}"
            )
        if self.codebook_update not in ("ema", "gradient", "simvq"):
            raise ValueError(f"codebook_update must be 'ema', 'gradient' or 'simvq', got {self.codebook_update!r}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        for name in ("commitment_weight", "commitment_start", "commitment_warmup_steps", "kmeans_iterations"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number, 0 or more, got {getattr(self, name)}")
        if not 0 <= self.restart_threshold < 1:
            raise ValueError(f"restart_threshold must lie in [0, 1), got {self.restart_threshold}")
        if self.codebook_update == "simvq" and self.restart_threshold:
            raise ValueError(
                "codebook_update: simvq moves all codes together and can restart none of them; set restart_threshold "
                f"to 0, got {self.restart_threshold}"
            )


class _Forward(NamedTuple):
    """What an update needs of a forward pass in training."""

    rows: Tensor  # (M, D) of this process, with padding
    valid: Tensor  # (M,) bool
    counts: Tensor  # (K,) of all processes
    sums: Tensor  # (K, D) of all processes


class VectorQuantizer(nn.Module):
    """Nearest code of a shared codebook, with the straight-through gradient or the rotation trick.

    The codebook is initialised from the first training batch (or by `initialise`, from several). In training, it is
    updated once per optimizer step: `forwards_per_step` forward passes use the same codebook, and their summed
    statistics are applied after the last one. All processes hold the same codebook, which equals that of a single
    process with the global batch.

    codebook_update: simvq is SimVQ (Zhu et al., arXiv 2411.02038): codes are `codebook @ codebook_map`, of which only
    the map is trained, by the codebook loss. All codes therefore move together, and no code can die.
    """

    codebook: Tensor  # (K, D)
    codebook_map: nn.Parameter | None  # (D, D), of SimVQ
    ema_count: Tensor  # (K,): moving average of the vectors per step and code; not of SimVQ
    ema_sum: Tensor  # (K, D): moving average of their sums; not of SimVQ
    last_used: Tensor  # (K,) int64: the update at which a code was last chosen
    updates: Tensor  # () int64: updates so far; -1 before the codebook is initialised

    def __init__(self, cfg: VectorQuantizerConfig):
        super().__init__()
        self.cfg = cfg
        codebook = torch.randn(cfg.codebook_size, cfg.dim)
        if cfg.codebook_update == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        simvq = cfg.codebook_update == "simvq"
        self.register_parameter("codebook_map", nn.Parameter(torch.eye(cfg.dim)) if simvq else None)
        if not simvq:
            self.register_buffer("ema_count", torch.zeros(cfg.codebook_size))
            self.register_buffer("ema_sum", torch.zeros(cfg.codebook_size, cfg.dim))
        self.register_buffer("last_used", torch.full((cfg.codebook_size,), -1))
        self.register_buffer("updates", torch.tensor(-1))
        self.forwards_per_step = 1
        self._forwards: list[_Forward] = []  # since the last update
        self._known_initialised = False  # cached, to avoid a device synchronisation per step

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """(B, D, *S) float, mask (B, *S) bool (False: padding, which is ignored) -> Quantized."""
        check_width(z, self.cfg.dim)
        with torch.autocast(z.device.type, enabled=False):  # sums and smoothing underflow in half precision
            z = self.directed(z.float())
            if self.training and not self.initialised:
                self.initialise([self.valid_rows(z, mask)])
            rows = rearrange(z, "b d ... -> (b ...) d")
            valid = torch.ones_like(rows[:, 0], dtype=torch.bool) if mask is None else mask.reshape(-1)
            flat_codes = nearest(rows.detach(), self.vectors)
            codes = flat_codes.view(z.shape[0], *z.shape[2:])  # (B, *S)
            z_q = self.decode(codes)
            counts, sums = self._statistics(rows.detach(), flat_codes, valid)
            loss = self._loss(rows, rearrange(z_q, "b d ... -> (b ...) d"), valid)
            if self.training:
                self._forwards.append(_Forward(rows.detach(), valid, counts, sums))
                if len(self._forwards) >= self.forwards_per_step:
                    self._update()
            z_q = rotated(z, z_q) if self.cfg.rotation_trick else z + (z_q - z).detach()
            return Quantized(z_q, codes, loss, perplexity(counts))

    def encode(self, z: Tensor) -> Tensor:
        """(B, D, *S) float -> the nearest codes (B, *S) int64."""
        check_width(z, self.cfg.dim)
        rows = rearrange(self.directed(z.detach().float()), "b d ... -> (b ...) d")
        return nearest(rows, self.vectors).view(z.shape[0], *z.shape[2:])

    def decode(self, codes: Tensor) -> Tensor:
        """(B, *S) int64 in [0, K) -> (B, D, *S)."""
        return rearrange(F.embedding(codes, self.vectors), "b ... d -> b d ...")

    @property
    def vectors(self) -> Tensor:
        """(K, D): the code vectors that are compared with the input and returned."""
        with torch.autocast(self.codebook.device.type, enabled=False):  # codes are compared in float32
            codebook = self.codebook if self.codebook_map is None else self.codebook @ self.codebook_map
            if not self.cfg.unit_norm:
                return codebook
            # a copy: restarts write to the codebook before the gradient has come back through its norms
            return F.rms_norm(codebook.clone(), (self.cfg.dim,), eps=1e-6)

    def directed(self, z: Tensor) -> Tensor:
        """(B, D, *S): unchanged, or with unit_norm each vector scaled to norm sqrt(D)."""
        if not self.cfg.unit_norm:
            return z
        rows = rearrange(z, "b d ... -> b ... d")
        return rearrange(F.rms_norm(rows, rows.shape[-1:], eps=1e-6), "b ... d -> b d ...")

    @property
    def initialised(self) -> bool:
        """Whether the codebook has been initialised from data."""
        if not self._known_initialised:
            self._known_initialised = bool(self.updates >= 0)
        return self._known_initialised

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._known_initialised = False

    @property
    def commitment_weight(self) -> Tensor:
        """() the current weight of the commitment loss."""
        c = self.cfg
        done = (
            (self.updates.clamp(min=0) / c.commitment_warmup_steps).clamp(max=1) if c.commitment_warmup_steps else 1.0
        )
        return c.commitment_start + (c.commitment_weight - c.commitment_start) * torch.as_tensor(done)

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.cfg.codebook_size

    @property
    def dim(self) -> int:
        """D."""
        return self.cfg.dim

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.codebook.device

    def usage(self, window: int = 100) -> Tensor:
        """() fraction of the codes that were chosen within the last `window` updates, 0 to 1."""
        return recent_usage(self.last_used, self.updates, window)

    def metrics(self, q: Quantized) -> dict[str, Tensor]:
        """Training metrics of a forward pass, each ()."""
        norm = self.vectors.detach().norm(dim=1).mean()
        return usage_metrics(q, self.usage(), self.codebook_size) | {"code_norm": norm}

    def code_weights(self) -> dict[str, Tensor]:
        """The weights that determine the code of a vector."""
        weights = {"codebook": self.codebook}
        return weights if self.codebook_map is None else weights | {"codebook_map": self.codebook_map}

    def valid_rows(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, D, *S), mask (B, *S) -> the vectors that are not padding, (M, D) float32."""
        return valid_rows(z, mask)

    @torch.no_grad()
    def initialise(self, passes: Sequence[Tensor]) -> None:
        """Initialises the codebook from this process's vectors (M, D) of each forward pass, with any M.

        k-means on the vectors of all processes (at most about 64 K of them), computed by the first process for all.
        SimVQ keeps the random codebook of the first process, scaled to these vectors. Raises ValueError if no process
        has a vector.
        """
        self.updates.fill_(-1)  # the result does not depend on earlier updates
        self._known_initialised = False
        k, generator = self.cfg.codebook_size, self._generator()
        most = -(-64 * k // len(passes))
        sample = torch.cat(
            [draw_rows(self.directed(rows.float()), min(most, global_size(rows)), generator) for rows in passes]
        )
        if not len(sample):
            raise ValueError("the codebook cannot be initialised: the batches consist of padding only")
        if self.codebook_map is not None:
            self.codebook.copy_(broadcast_from_first(self.codebook))
            scale = sample.square().mean().sqrt()  # that of the codebook is 1
            self.codebook_map.copy_(broadcast_from_first(scale * torch.eye(self.cfg.dim, device=self.device)))
        else:
            self.codebook.copy_(broadcast_from_first(kmeans(sample, k, self.cfg.kmeans_iterations, generator)))
            self.ema_count.fill_(1.0)
            self.ema_sum.copy_(self.codebook)
        self.last_used.fill_(-1)
        self.updates.fill_(0)
        self._known_initialised = True
        self._forwards.clear()

    def _generator(self) -> torch.Generator:
        """Chooses the same rows on every process and after a resume: it depends only on the number of the update."""
        return torch.Generator().manual_seed(int(self.updates) + 1)

    @torch.no_grad()
    def _statistics(self, rows: Tensor, codes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(M, D), (M,), (M,) -> how often each code was chosen in the global batch (K,), sums of its vectors (K, D)."""
        weight = valid.to(rows.dtype)
        stacked = rows.new_zeros(self.cfg.codebook_size, 1 + self.cfg.dim)  # one all-reduce for both
        stacked.index_add_(0, codes, torch.cat([weight[:, None], rows * weight[:, None]], dim=1))
        if self.training:
            stacked = sum_over_processes(stacked)
        return stacked[:, 0], stacked[:, 1:]

    def _loss(self, rows: Tensor, quantized: Tensor, valid: Tensor) -> Tensor:
        """Equation 3 without the reconstruction term, averaged over valid vectors and their D dimensions."""
        scale = valid.sum().clamp(min=1) * self.cfg.dim
        weight = valid.to(rows.dtype)[:, None] / scale
        loss = self.commitment_weight * ((rows - quantized.detach()).square() * weight).sum()
        if self.cfg.codebook_update != "ema":
            loss = loss + ((rows.detach() - quantized).square() * weight).sum()
        return loss

    @torch.no_grad()
    def _update(self) -> None:
        """Applies the statistics of the step's forward passes, then restarts dead codes and their moving averages.

        Tensor operations alone, none of which makes the host wait for the device or depends on a value: the same
        graph in every step. A step in which all processes had only padding changes nothing.
        """
        rows = torch.cat([each.rows for each in self._forwards])
        valid = torch.cat([each.valid for each in self._forwards])
        counts = torch.stack([each.counts for each in self._forwards]).sum(0)
        sums = torch.stack([each.sums for each in self._forwards]).sum(0)
        self._forwards.clear()
        some = counts.sum() > 0  # ()
        # other tensors, not other values in the same ones, which a compiled pass may read after they were written
        self.updates = self.updates + some
        self.last_used = torch.where(counts > 0, self.updates, self.last_used)
        if self.codebook_map is not None:
            return
        # a short averaging window at first: encoder outputs change fast, and unused codes must be restarted soon
        weight = (1 - (1 + self.updates) / (10 + self.updates)).clamp(min=1 - self.cfg.ema_decay) * some
        self.ema_count = self.ema_count.lerp(counts, weight)
        self.ema_sum = self.ema_sum.lerp(sums, weight)
        if self.cfg.codebook_update == "ema":
            # a code whose count has decayed to nothing stays where it is
            alive = (self.ema_count > 1e-6) & some
            self._move_codes(alive, self.ema_sum / self.ema_count[:, None])
        if self.cfg.restart_threshold:
            self._restart(rows, valid, some)

    def _restart(self, rows: Tensor, valid: Tensor, some: Tensor) -> None:
        """(M, D), (M,), whether any process has a valid row () -> dead codes and their averages start again."""
        mean_count = self.ema_count.mean()
        dead = (self.ema_count < self.cfg.restart_threshold * mean_count) & some
        fresh = self._drawn(rows, valid)  # in every step, because all processes must call it at the same points
        self._move_codes(dead, fresh)
        self.ema_sum = torch.where(dead[:, None], fresh * mean_count, self.ema_sum)
        self.ema_count = torch.where(dead, mean_count, self.ema_count)

    def _move_codes(self, which: Tensor, where: Tensor) -> None:
        """(K,) bool, (K, D) -> those codes are there."""
        codebook = torch.where(which[:, None], where, self.codebook)
        if isinstance(self.codebook, nn.Parameter):
            self.codebook.copy_(codebook)
        else:
            self.codebook = codebook

    def _drawn(self, rows: Tensor, valid: Tensor) -> Tensor:
        """(M, D), (M,) -> K valid rows of the global batch (K, D), by the number of the update; zeros if there is none.

        On a CPU they are drawn by PyTorch's generator, elsewhere and in a compiled step by a hash, which does not
        need the number of valid rows on the host.
        """
        if rows.device.type != "cpu" or is_traced():
            return draw_rows_on_device(rows, valid, self.cfg.codebook_size, self.updates + 1)
        own = rows[valid]
        if not global_size(own):
            return rows.new_zeros(self.cfg.codebook_size, self.cfg.dim)
        return draw_rows(own, self.cfg.codebook_size, self._generator())


def nearest(rows: Tensor, codebook: Tensor) -> Tensor:
    """(M, D), (K, D) -> (M,) int64: the code with the smallest Euclidean distance, the first one if several are equal.

    Uses the compiled search if available, in which no row depends on other rows, otherwise PyTorch. If the two choose
    different codes, the distances are equal within float32 rounding.
    """
    codebook = codebook.detach()
    if is_traced() or (compiled := kernels()) is None or not _for_compiled(rows, codebook):
        return nearest_in_pytorch(rows, codebook)
    return nearest_code(compiled, rows.detach(), codebook, torch.get_num_threads())


def _for_compiled(rows: Tensor, codebook: Tensor) -> bool:
    """Whether the compiled search supports them; it rejects non-finite codebooks, which occur while a run diverges.

    A sum takes a sixth of the time of isfinite(); finite codes whose sum overflows are left to PyTorch.
    """
    plain = all(type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" for t in (rows, codebook))
    plain = plain and rows.dtype == codebook.dtype == torch.float32
    return plain and max(codebook.shape) <= MAX_SIZE and math.isfinite(codebook.sum())


def nearest_in_pytorch(rows: Tensor, codebook: Tensor) -> Tensor:
    """As `nearest`, on any device, of any precision. |row|^2 is the same for all codes and left out."""
    if rows.shape[0] == 0:
        return torch.zeros(0, dtype=torch.long, device=rows.device)
    codebook = codebook.detach()
    with torch.autocast(rows.device.type, enabled=False):
        half_norms = codebook.square().sum(1) / 2
        chunks = rows.split(NEAREST_ROWS)
        return torch.cat([torch.addmm(half_norms, chunk, codebook.T, alpha=-1).argmin(1) for chunk in chunks])


def kmeans(rows: Tensor, k: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm from randomly chosen rows: (M, D) -> (K, D). A centre without rows stays where it is."""
    choice = torch.randperm(rows.shape[0], generator=generator)
    centres = rows[choice.repeat(-(-k // rows.shape[0]))[:k].to(rows.device)].clone()
    for _ in range(iterations):
        codes = nearest(rows, centres)
        sums = torch.zeros_like(centres).index_add_(0, codes, rows)
        counts = torch.bincount(codes, minlength=k).to(rows.dtype)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def rotated(z: Tensor, z_q: Tensor) -> Tensor:
    """The rotation trick: (B, D, *S), its code vectors (B, D, *S) -> the code vectors, with a rotated gradient to z.

    Each vector is mapped to its code by a rotation in the plane of both and a scale factor. The gradient is
    backpropagated through this map, which is treated as constant, so that the angle between gradient and vector is the
    angle between gradient and code. A vector or code of length 0 has no direction; its gradient is straight-through.
    """
    rows, codes = rearrange(z, "b d ... -> b ... d"), rearrange(z_q, "b d ... -> b ... d").detach()
    with torch.no_grad():
        length, code_length = rows.norm(dim=-1, keepdim=True), codes.norm(dim=-1, keepdim=True)
        defined = torch.minimum(length, code_length) > 1e-6
        start = rows / length.clamp(min=1e-6)
        end = codes / code_length.clamp(min=1e-6)
        middle = F.normalize(start + end, dim=-1)
        factor = code_length / length.clamp(min=1e-6)
    # a reflection of the first direction, then one along the middle: together the rotation from start to end
    turned = rows - 2 * (rows * middle).sum(-1, keepdim=True) * middle + 2 * (rows * start).sum(-1, keepdim=True) * end
    through = torch.where(defined, factor * turned, rows)
    return rearrange(codes + (through - through.detach()), "b ... d -> b d ...")  # exactly the codes
