"""The reference implementation of generation, which every faster backend must equal.

Letters: B streams, T steps, N frames, D code width, Q classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.logits import Generators, draw, uniforms
from vqaudio.torch_defaults import with_own_defaults


@with_own_defaults
@torch.inference_mode()
def generate(
    net: WaveNet,
    cond: Tensor | None = None,
    speaker: Tensor | None = None,
    *,
    steps: int | Sequence[int],
    sampling: SamplingConfig = SamplingConfig(),
    generator: Generators | None = None,
    streams: int = 1,
    prompt: Tensor | None = None,
) -> Tensor:
    """cond (B, D, N), speaker (B,) -> classes (B, T) int64, T = steps or the largest of each stream's own steps.

    Runs the whole net over all previous steps for each new one: T forward passes of growing length, in PyTorch and in
    the net's own dtype, independently of `sampling.precision`. N must be ceil(T / hop). `streams` gives B where neither
    cond nor speaker does. After a stream's own end its classes are 0. `generator`: one for all streams or one for each
    (None: one for all, seeded with `sampling.seed`). `prompt` (B, P) int64: classes to continue, for a net without
    local conditioning; they are neither counted nor returned. Raises ValueError for inputs that do not fit the net.
    """
    lengths, total = check_request(net, cond, speaker, steps, streams)
    streams = len(lengths)
    generator = torch.Generator().manual_seed(sampling.seed) if generator is None else generator
    uniform = uniforms(streams, total, generator).to(net.out.weight.device)
    check_prompt(net, prompt, streams)
    x = torch.full((streams, 1), net.start, device=net.out.weight.device)
    if prompt is not None:
        x = torch.cat([x, prompt.to(x)], dim=1)
    before = x.shape[1]
    for t in range(total):
        frames = None if cond is None else cond[:, :, : t // net.cfg.hop + 1]
        logits, _ = net(x, frames, speaker)  # (B, Q, t + 1)
        x = torch.cat([x, draw(logits[:, :, -1], uniform[:, t], sampling)[:, None]], dim=1)
    return x[:, before:] * (torch.arange(total) < lengths[:, None]).to(x)


def check_request(
    net: WaveNet,
    cond: Tensor | None,
    speaker: Tensor | None,
    steps: int | Sequence[int],
    streams: int,
) -> tuple[Tensor, int]:
    """Arguments of `generate` -> steps of each stream (B,) int64, the largest of them. Raises ValueError if unfit."""
    lengths, total = check_lengths(steps, count_streams(cond, speaker, streams))
    check_frames(net, cond, total)
    return lengths, total


def check_prompt(net: WaveNet, prompt: Tensor | None, streams: int) -> None:
    """Raises ValueError for a prompt that these streams cannot continue."""
    if prompt is None:
        return
    if net.condition is not None:
        raise ValueError(
            "a prompt is for a net without local conditioning; this net would need the conditioning of the prompt too"
        )
    if prompt.ndim != 2 or len(prompt) != streams or not prompt.shape[1]:
        raise ValueError(f"prompt must be ({streams}, P) with P at least 1, got {tuple(prompt.shape)}")
    if not 0 <= int(prompt.min()) <= int(prompt.max()) < net.cfg.num_classes:
        raise ValueError(
            f"prompt must lie in 0..{net.cfg.num_classes - 1}, got {int(prompt.min())}..{int(prompt.max())}"
        )


def count_streams(cond: Tensor | None, label: Tensor | None, streams: int) -> int:
    """B: the rows of cond and of speakers or labels, which must agree, or `streams` without either."""
    sizes = {given.shape[0] for given in (cond, label) if given is not None} or {streams}
    if len(sizes) > 1:
        raise ValueError(f"cond and speaker or label must have one row for each stream, got {sorted(sizes)} rows")
    return sizes.pop()


def check_lengths(steps: int | Sequence[int], streams: int) -> tuple[Tensor, int]:
    """Steps of all streams, or of each -> (B,) int64, the largest of them. Raises ValueError for another number."""
    lengths = torch.as_tensor(steps, dtype=torch.int64, device="cpu")
    if lengths.ndim and lengths.shape != (streams,):
        raise ValueError(f"steps must be one number or one for each of {streams} streams, got {lengths.tolist()}")
    if lengths.numel() and lengths.min() < 0:
        raise ValueError(f"steps must be 0 or more, got {int(lengths.min())}")
    return lengths.expand(streams), int(lengths.max()) if lengths.numel() else 0


def check_frames(net: WaveNet, cond: Tensor | None, steps: int) -> None:
    """Raises ValueError unless cond (B, D, N) has the frames that `steps` steps lie in."""
    frames = -(-steps // net.cfg.hop)
    if cond is not None and cond.shape[2] != frames:
        raise ValueError(
            f"{steps} steps at {net.cfg.hop} per frame lie in {frames} frames, but cond has {cond.shape[2]}"
        )
