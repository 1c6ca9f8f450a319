"""Imagining frames: a reference loop over the whole network, and an equivalent one that keeps what it can.

Shapes: B sequences, P frames of the prompt, S imagined frames, N context frames, h x w positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqaudio.images.sampling import generate_map_cached
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.logits import Generators, draw, uniforms
from vqaudio.torch_defaults import with_own_defaults
from vqaudio.video.prior import VideoPrior


@with_own_defaults
@torch.inference_mode()
def imagine_naive(
    prior: VideoPrior,
    prompt: Tensor,
    actions: Tensor,
    *,
    sampling: SamplingConfig = SamplingConfig(),
    generator: Generators | None = None,
) -> Tensor:
    """Codes (B, P, h, w), P at least N, and actions (B, P - 1 + S) -> codes of the S imagined frames (B, S, h, w).

    Action t leads from frame t to frame t + 1, prompt included. Reference implementation: a pass over all frames for
    every code. `generator` as in `imagine`.
    """
    codes, count = _checked(prior, prompt, actions)
    height, width = prior.cfg.map_shape
    for uniform in _uniforms(prior, len(codes), count, sampling, generator):
        codes = torch.cat([codes, torch.zeros_like(codes[:, :1])], 1)
        for place in range(height * width):
            row, column = divmod(place, width)
            logits = prior.logits(codes, actions[:, : codes.shape[1] - 1])[:, -1, :, row, column]
            codes[:, -1, row, column] = draw(logits, uniform[:, place], sampling)
    return codes[:, prompt.shape[1] :]


@with_own_defaults
@torch.inference_mode()
def imagine(
    prior: VideoPrior,
    prompt: Tensor,
    actions: Tensor,
    *,
    sampling: SamplingConfig = SamplingConfig(),
    generator: Generators | None = None,
) -> Tensor:
    """As `imagine_naive`: the same codes from the same random numbers.

    The context is read once per frame, the vertical stack of the PixelCNN runs once per row, and its horizontal stack
    once per position. `generator`: one for all sequences or one for each (None: one for all, seeded with
    `sampling.seed`). Raises ValueError for a prompt that is too short and for actions that do not fit.
    """
    codes, count = _checked(prior, prompt, actions)
    height, width = prior.cfg.map_shape
    n, generators = prior.cfg.context, _generators(sampling, generator)
    for _ in range(count):
        frames = codes.shape[1]
        cond, cond_map = prior.conditions(codes[:, -n:], actions[:, frames - n : frames])
        following = generate_map_cached(
            prior.net, height, width, cond, None, cond_map, sampling=sampling, generator=generators
        )
        codes = torch.cat([codes, following[:, None]], 1)
    return codes[:, prompt.shape[1] :]


def _checked(prior: VideoPrior, prompt: Tensor, actions: Tensor) -> tuple[Tensor, int]:
    """-> the prompt, and the number of frames to imagine, 0 or more."""
    n, wanted = prior.cfg.context, tuple(prior.cfg.map_shape)
    if prompt.ndim != 4 or tuple(prompt.shape[2:]) != wanted:
        raise ValueError(f"the prompt must be codes (B, P, {wanted[0]}, {wanted[1]}), got {tuple(prompt.shape)}")
    frames = prompt.shape[1]
    if frames < n:
        raise ValueError(f"the prompt must have at least {n} frames, which this prior looks back to, got {frames}")
    count = actions.shape[1] - (frames - 1) if actions.ndim == 2 else -1
    if count < 0 or len(actions) != len(prompt):
        raise ValueError(
            f"actions must be ({len(prompt)}, {frames - 1} or more), one after each frame but the last one, got "
            f"{tuple(actions.shape)}"
        )
    if count:
        prior.check(torch.cat([prompt, prompt[:, :1].expand(-1, count, -1, -1)], 1), actions)
    return prompt, count


def _generators(sampling: SamplingConfig, generator: Generators | None) -> Generators:
    return torch.Generator().manual_seed(sampling.seed) if generator is None else generator


def _uniforms(
    prior: VideoPrior, batch: int, count: int, sampling: SamplingConfig, generator: Generators | None
) -> list[Tensor]:
    """For each imagined frame (B, h * w) random numbers, as `generate_map_cached` draws them."""
    height, width = prior.cfg.map_shape
    generators = _generators(sampling, generator)
    return [uniforms(batch, height * width, generators).to(prior.device) for _ in range(count)]
