"""Rollouts of a video prior: sensitivity to the actions, and drift of long continuations.

Shapes: B sequences, T frames, N context frames, S imagined frames, h x w positions, H x W pixels, K codes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.nn.quantizer import perplexity
from vqaudio.sampling.config import SamplingConfig, check_count
from vqaudio.video.clips import decode_frames
from vqaudio.video.crops import CodeSequences, window_batches
from vqaudio.video.prior import VideoPrior
from vqaudio.video.sampling import imagine

BATCH_SIZE = 64
MAX_SHIFT = 16  # pixels between two frames
MIN_CORRELATION = 0.5  # below it, no shift is found
DRIFT_BIN = 10  # steps that are evaluated together


class Rollouts(NamedTuple):
    """Real and imagined frames after the same context."""

    real: Tensor  # (B, S, h, w) codes
    imagined: Tensor  # (B, S, h, w) codes
    last: Tensor  # (B, h, w) codes of the last frame of the context
    actions: Tensor  # (B, S)


def roll_out(
    prior: VideoPrior,
    sequences: CodeSequences,
    steps: int,
    count: int,
    sampling: SamplingConfig,
    actions: Tensor | None = None,
) -> Rollouts:
    """Imagine `steps` frames after `count` evenly spaced contexts, with the recorded actions or those given, (B, S).

    Raises ValueError if no episode is long enough.
    """
    check_count(count)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    n, device, parts = prior.cfg.context, prior.device, []
    for number, batch in enumerate(window_batches(sequences, n + steps, BATCH_SIZE, count)):
        codes, taken = batch["codes"], batch["actions"].clone()
        if actions is not None:
            taken[:, n - 1 :] = actions[number * BATCH_SIZE : number * BATCH_SIZE + len(codes)]
        prompt = codes[:, :n].to(device)
        generators = [
            torch.Generator().manual_seed(sampling.seed + number * BATCH_SIZE + row) for row in range(len(codes))
        ]
        drawn = imagine(prior, prompt, taken.to(device), sampling=sampling, generator=generators).cpu()
        parts.append(Rollouts(codes[:, n:], drawn, codes[:, n - 1], taken[:, n - 1 :]))
    if not parts:
        raise ValueError(f"no episode has {n + steps} frames; record longer ones")
    return Rollouts(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def action_sensitivity(
    prior: VideoPrior, model: ImageVQVAE, sequences: CodeSequences, count: int, sampling: SamplingConfig
) -> dict[str, float]:
    """How far the scene moves to the right from the last frame of the context to the next, in pixels.

    All frames are decoded from codes. Medians over `count` contexts:

    shift_ACTION_real      of the recorded next frames after this action
    shift_ACTION           of imagined ones after the same contexts and actions
    shift_ACTION_forced    of imagined ones after all contexts, whatever was done there
    shift_ACTION_count     contexts after which both the recorded and the imagined shift were found
    shift_correlation      of real and imagined shifts, over the contexts
    shift_correlation_shuffled    the same if the imagined frame is given the action of another context

    Frames of which no shift is found (correlation below 0.5) do not count; NaN: none is found.
    """
    own = roll_out(prior, sequences, 1, count, sampling)
    shuffled = roll_out(prior, sequences, 1, count, sampling, own.actions.roll(len(own.actions) // 2, 0))
    last = decode_frames(model, own.last)
    real = horizontal_shift(last, decode_frames(model, own.real[:, 0]))
    with_own = horizontal_shift(last, decode_frames(model, own.imagined[:, 0]))
    with_other = horizontal_shift(last, decode_frames(model, shuffled.imagined[:, 0]))
    metrics = {
        "shift_correlation": _correlation(real, with_own),
        "shift_correlation_shuffled": _correlation(real, with_other),
    }
    for index, name in enumerate(prior.cfg.actions):
        taken = own.actions[:, 0] == index
        forced = roll_out(prior, sequences, 1, count, sampling, torch.full_like(own.actions, index))
        metrics |= {
            f"shift_{name}_real": _median(real[taken]),
            f"shift_{name}": _median(with_own[taken]),
            f"shift_{name}_count": float((~(real + with_own)[taken].isnan()).sum()),
            f"shift_{name}_forced": _median(horizontal_shift(last, decode_frames(model, forced.imagined[:, 0]))),
        }
    return metrics


def horizontal_shift(before: Tensor, after: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 each -> (B,) horizontal shift from `before` to `after` in pixels, NaN if none is found.

    The largest normalised cross-correlation of their luminance (mean of the channels), over the columns that both have.
    """
    gray_before, gray_after = (frames.float().mean(1) for frames in (before, after))
    width = gray_before.shape[2]
    most = min(MAX_SHIFT, width // 2)
    shifts = sorted(range(-most, most + 1), key=abs)  # of equal correlations the smallest shift
    scores = [
        _normalised_product(
            gray_before[..., max(0, -s) : width - max(0, s)], gray_after[..., max(0, s) : width - max(0, -s)]
        )
        for s in shifts
    ]
    best = torch.stack(scores).max(0)
    found = torch.tensor(shifts, dtype=torch.float32)[best.indices]
    return torch.where(best.values >= MIN_CORRELATION, found, torch.nan)


def drift(rollouts: Rollouts, model: ImageVQVAE, reference: Tensor) -> list[dict[str, float]]:
    """Statistics of imagined frames beside the real ones, for every ten steps; `reference` (...): real codes.

    code_distance, code_distance_real    total variation distance of the code histogram from that of `reference`
    perplexity, perplexity_real          of the codes
    psnr, psnr_static                    of imagined frames, and of the last frame of the context, against the real ones
    """
    k, steps = model.codebook_size, rollouts.real.shape[1]
    expected = _histogram(reference, k)
    rows = []
    for first in range(0, steps, DRIFT_BIN):
        end = min(first + DRIFT_BIN, steps)
        real, imagined = rollouts.real[:, first:end], rollouts.imagined[:, first:end]
        pixels = decode_frames(model, real.flatten(0, 1))
        static = rollouts.last[:, None].expand_as(real).flatten(0, 1)
        row = {"first_step": float(first + 1), "last_step": float(end)}
        for name, codes in (("", imagined), ("_real", real)):
            own = _histogram(codes, k)
            row |= {
                f"code_distance{name}": (own - expected).abs().sum().item() / 2,
                f"perplexity{name}": perplexity(own).item(),
            }
        row["psnr"] = _psnr(decode_frames(model, imagined.flatten(0, 1)), pixels)
        row["psnr_static"] = _psnr(decode_frames(model, static), pixels)
        rows.append(row)
    return rows


def _normalised_product(a: Tensor, b: Tensor) -> Tensor:
    """(B, H, W) each -> correlation of their pixels, (B,); of frames without any structure 0."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-6)


def _correlation(a: Tensor, b: Tensor) -> float:
    found = ~(a.isnan() | b.isnan())
    a, b = a[found], b[found]
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1]) if len(a) > 1 and a.std() > 0 and b.std() > 0 else math.nan


def _median(values: Tensor) -> float:
    """Median of what was found; NaN if nothing was."""
    found = values[~values.isnan()]
    return float(found.median()) if len(found) else math.nan


def _histogram(codes: Tensor, k: int) -> Tensor:
    counts = torch.bincount(codes.flatten().long(), minlength=k).double()
    return counts / counts.sum()


def _psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, of uint8 images; the error is averaged over all of them."""
    error = (a.float() - b.float()).square().mean().clamp(min=1e-4)
    return float(10 * torch.log10(255**2 / error))
