"""The obvious loop: what every faster sampler must equal.

Letters: B streams, T steps, N frames, D code width, Q classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.draw import Generators, check_controls, draw, uniforms


@torch.inference_mode()
def generate(
    net: WaveNet,
    cond: Tensor | None = None,
    speaker: Tensor | None = None,
    *,
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: Generators = None,
    streams: int = 1,
) -> Tensor:
    """cond (B, D, N), speaker (B,) -> classes (B, T) int64, T = steps.

    Runs the whole net over all steps so far for each new one: T passes of growing length. N must be
    ceil(T / hop). `streams` tells B where neither cond nor speaker does.
    """
    check_controls(steps, temperature, top_k)
    check_frames(net, cond, steps)
    streams = count_streams(cond, speaker, streams)
    uniform = uniforms(streams, steps, generator).to(net.out.weight.device)
    x = torch.full((streams, 1), net.start, device=net.out.weight.device)
    for t in range(steps):
        frames = None if cond is None else cond[:, :, : t // net.cfg.hop + 1]
        logits, _ = net(x, frames, speaker)  # (B, Q, t + 1)
        x = torch.cat([x, draw(logits[:, :, -1], uniform[:, t], temperature, top_k)[:, None]], dim=1)
    return x[:, 1:]


def count_streams(cond: Tensor | None, speaker: Tensor | None, streams: int) -> int:
    """B: the rows of cond and speaker, which must agree, or `streams` without either."""
    sizes = {given.shape[0] for given in (cond, speaker) if given is not None} or {streams}
    if len(sizes) > 1:
        raise ValueError(f"cond and speaker must have one row for each stream, got {sorted(sizes)} rows")
    return sizes.pop()


def check_frames(net: WaveNet, cond: Tensor | None, steps: int) -> None:
    """Raises ValueError if cond (B, D, N) has not the frames that `steps` steps lie in."""
    frames = -(-steps // net.cfg.hop)
    if cond is not None and cond.shape[2] != frames:
        raise ValueError(
            f"{steps} steps at {net.cfg.hop} per frame lie in {frames} frames, but cond has {cond.shape[2]}"
        )
