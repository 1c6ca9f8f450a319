"""Speed and memory of the vector quantizer, compared with vector-quantize-pytorch in the same run.

    python tests/bench/bench_quantizer.py [--quick]

Prints milliseconds per call and the ratio of theirs to ours. Ratios transfer to other machines, absolute numbers do
not. Trials alternate. Before a size is timed both must do the same work on it: the same codes, up to ties within
float32 rounding, and from them the same vectors, loss, gradient and codebook after the update. Memory is what each call
adds to the peak of a separate process. vector-quantize-pytorch is in the extra [bench].

Letters: B batch, D code width, K number of codes, *S spatial axes, M = B * prod(S) vectors.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from bench_tokenize import peak_megabytes
from torch import Tensor, nn

from vqaudio.kernels.library import kernels, why_missing
from vqaudio.nn.vector_quantizer import VectorQuantizer, VectorQuantizerConfig

WAVENET_VOCODER = "vector_quantize_pytorch"
TRIALS, QUICK_TRIALS = 7, 2
THREADS = (1, 2)
ROUNDING = 16 * torch.finfo(torch.float32).eps  # of a squared distance, as a part of |vector|^2 + |code|^2


class Size(NamedTuple):
    """What is quantized, and with how many codes."""

    shape: tuple[int, ...]  # (B, D, *S)
    codes: int

    @property
    def vectors(self) -> int:
        return math.prod(self.shape) // self.shape[1]

    def label(self) -> str:
        return f"{'x'.join(map(str, self.shape)):>16}{self.codes:7d}"


# as many vectors as a large batch of speech has, and as 128 images of 32 x 32 have with 8 x 8 codes each
SIZES = [Size(shape, codes) for shape in ((8, 64, 2048), (128, 64, 8, 8)) for codes in (512, 8192)]


# --- the two quantizers ---


def vectors_and_codebook(size: Size) -> tuple[Tensor, Tensor]:
    """(B, D, *S) and (K, D): normal codes, and vectors as far around them that some are nearly as far from another."""
    noise = torch.Generator().manual_seed(0)
    codebook = torch.randn(size.codes, size.shape[1], generator=noise)
    chosen = codebook[torch.randint(size.codes, (size.vectors,), generator=noise)]
    rows = chosen + torch.randn(chosen.shape, generator=noise)
    batch, width, *spatial = size.shape
    return rows.view(batch, *spatial, width).movedim(-1, 1).contiguous(), codebook


def our_quantizer(size: Size, codebook: Tensor) -> VectorQuantizer:
    """With the defaults that speech and images train with, amid training: every count at its mean."""
    ours = VectorQuantizer(VectorQuantizerConfig(codebook_size=size.codes, dim=size.shape[1]))
    count = size.vectors / size.codes
    ours.codebook.copy_(codebook)
    ours.ema_count.fill_(count)
    ours.ema_sum.copy_(codebook).mul_(count)
    ours.updates.fill_(1000)  # past the growth of decay and commitment weight
    return ours


def their_quantizer(size: Size, codebook: Tensor) -> Any:
    """With the settings that do the same, amid training too.

    The straight-through gradient instead of the rotation trick, a codebook of moving averages without k-means of its
    own, our decay and commitment weight. Their threshold is a count where ours is a part of the mean count. No code is
    dead in these trials: they then draw no vectors to replace it, while ours draws K of them at every update.
    """
    cfg, count = VectorQuantizerConfig(), size.vectors / size.codes
    theirs = importlib.import_module(WAVENET_VOCODER).VectorQuantize(
        dim=size.shape[1],
        codebook_size=size.codes,
        decay=cfg.ema_decay,
        commitment_weight=cfg.commitment_weight,
        rotation_trick=False,
        kmeans_init=False,
        threshold_ema_dead_code=cfg.restart_threshold * count,
        channel_last=False,
        accept_image_fmap=len(size.shape) == 4,
    )
    theirs.codebook = codebook
    theirs._codebook.cluster_size.fill_(count)
    theirs._codebook.embed_avg.copy_(codebook).mul_(count)
    return theirs


QUANTIZERS: dict[str, Callable[[Size, Tensor], nn.Module]] = {"vqaudio": our_quantizer, "peer": their_quantizer}


# --- what they do: each starts with (z_q, codes, loss), which both return first ---


def evaluate(quantizer: nn.Module, z: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return list(quantizer.eval()(z)[:3])


def train_forward(quantizer: nn.Module, z: Tensor) -> list[Tensor]:
    """With the update of the codebook; z requires a gradient, as the output of an encoder does."""
    return list(quantizer.train()(z.detach().requires_grad_())[:3])


def train_step(quantizer: nn.Module, z: Tensor) -> list[Tensor]:
    """Forward and backward; the gradient of z comes last."""
    z = z.detach().requires_grad_()
    z_q, codes, loss = quantizer.train()(z)[:3]
    (loss + z_q.sum()).backward()
    assert z.grad is not None
    return [z_q, codes, loss, z.grad]


WORKS = {"forward, evaluation": evaluate, "forward, training": train_forward, "training step": train_step}


def compare_work(size: Size) -> tuple[int, str]:
    """How many vectors have another code, all of them ties; and what else is not the same, empty where all is."""
    z, codebook = vectors_and_codebook(size)
    ours, theirs = our_quantizer(size, codebook), their_quantizer(size, codebook)
    codes, their_codes = (evaluate(quantizer, z)[1].reshape(-1) for quantizer in (ours, theirs))
    other = codes != their_codes
    rows = z.movedim(1, -1).reshape(-1, size.shape[1])[other].double()
    one, two = codebook[codes[other]].double(), codebook[their_codes[other]].double()
    gap = (rows - one).square().sum(1) - (rows - two).square().sum(1)
    if (gap.abs() > ROUNDING * (rows.square().sum(1) + one.square().sum(1))).any():
        return int(other.sum()), "codes, more than by ties"

    (z_q, found, loss, gradient), (their_z_q, their_found, their_loss, their_gradient) = (
        train_step(quantizer, z) for quantizer in (ours, theirs)
    )
    # of a tie the vector and its gradient may differ, and where both codes move
    same, still = (found == their_found)[:, None], torch.ones(size.codes, dtype=torch.bool)
    still[torch.cat([codes[other], their_codes[other]])] = False
    pairs = {
        "vectors": (z_q * same, their_z_q * same),
        "loss": (loss, their_loss),
        "gradient": (gradient * same, their_gradient * same),
        "codebook after the update": (ours.codebook[still], theirs.codebook[still]),
    }
    unlike = [name for name, (mine, peer) in pairs.items() if not torch.allclose(mine, peer, rtol=1e-4, atol=1e-5)]
    return int(other.sum()), ", ".join(unlike)


# --- what is shown ---


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare_speed(sizes: list[Size], trials: int) -> None:
    print(f"Quantizers, milliseconds per call (lower is faster), medians of {trials} alternating trials:")
    print(f"{'shape':>16}{'codes':>7}{'threads':>9}  {'work':20}{'vqaudio':>10}{'peer':>10}{'ratio':>8}")
    ratios = []
    for size in sizes:
        z, codebook = vectors_and_codebook(size)
        for threads in THREADS:
            torch.set_num_threads(threads)
            for name, work in WORKS.items():
                ours, theirs = (make(size, codebook) for make in QUANTIZERS.values())
                our_call, their_call = partial(work, ours, z), partial(work, theirs, z)
                our_call()
                their_call()
                pairs = [(seconds(our_call), seconds(their_call)) for _ in range(trials)]
                mine, peer = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
                ratio = statistics.median(slow / fast for fast, slow in pairs)
                ratios.append(ratio)
                print(f"{size.label()}{threads:9d}  {name:20}{mine:10.2f}{peer:10.2f}{ratio:8.2f}", flush=True)
    below = sum(ratio < 1 for ratio in ratios)
    verdict = f"no, {below} of {len(ratios)} are below" if below else f"yes, all {len(ratios)}"
    print(f"Every ratio is at least 1: {verdict}; the least is {min(ratios):.2f}.", flush=True)


def compare_memory(sizes: list[Size]) -> None:
    """Each case in a separate process, one thread."""
    print("Growth of peak memory by the calls, MB, one thread:")
    print(f"{'shape':>16}{'codes':>7}  {'work':20}{'vqaudio':>10}{'peer':>10}{'ratio':>8}")
    for size in sizes:
        for name in WORKS:
            mine, peer = (process_megabytes(quantizer, name, size) for quantizer in QUANTIZERS)
            print(f"{size.label()}  {name:20}{mine:10.1f}{peer:10.1f}{peer / max(mine, 0.1):8.1f}", flush=True)


def process_megabytes(quantizer: str, work: str, size: Size) -> float:
    """NaN if the process ran out of memory."""
    command = [sys.executable, __file__, "--memory-of", quantizer, work, str(size.codes), *map(str, size.shape)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return float(done.stdout) if done.returncode == 0 else math.nan


def report_memory(quantizer: str, work: str, size: Size) -> None:
    """By three calls, after small ones have loaded the code; what is quantized does not matter."""
    torch.set_num_threads(1)
    _, width, *spatial = size.shape
    for measured in (Size((1, width, *(2 for _ in spatial)), 2), size):
        z = torch.randn(measured.shape)
        quantize = QUANTIZERS[quantizer](measured, torch.randn(measured.codes, width))
        before = peak_megabytes()
        for _ in range(3):
            WORKS[work](quantize, z)
    print(peak_megabytes() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRIALS} trials instead of {TRIALS}")
    parser.add_argument("--memory-of", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        quantizer, work, codes, *shape = arguments.memory_of
        report_memory(quantizer, work, Size(tuple(map(int, shape)), int(codes)))
        return
    if not importlib.util.find_spec(WAVENET_VOCODER):
        print("Quantizers: vector-quantize-pytorch is not installed: pip install 'vqaudio[bench]'")
        return
    compiled = kernels()
    print(f"The search of vqaudio: compiled for {compiled.variant}" if compiled else f"In PyTorch: {why_missing()}")
    torch.manual_seed(0)
    alike = []
    print("Ties that are decided otherwise, and what is not the same work (then it is not compared):")
    for size in SIZES:
        ties, unlike = compare_work(size)
        print(f"{size.label()}{ties:6d} of {size.vectors} vectors; {unlike or 'all is the same'}", flush=True)
        if not unlike:
            alike.append(size)
    if not alike:
        print("No size is left to compare.")
        return
    compare_speed(alike, QUICK_TRIALS if arguments.quick else TRIALS)
    compare_memory(alike)


if __name__ == "__main__":
    main()
