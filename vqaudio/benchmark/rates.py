"""Decoding rates, in steps per second of all streams together: a function for each implementation.

Letters: B streams, T steps, N frames, D width of the conditioning.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vqaudio.nn.acoustic import NUM_PITCH_FEATURES, AcousticFrames
from vqaudio.nn.frontend import LogMel
from vqaudio.nn.pitch import MEAN_OCTAVES, Pitch
from vqaudio.nn.source_filter import IstftVocoder
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling.backends import Sampler, block_steps
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.logits import draw
from vqaudio.speech.griffin_lim import griffin_lim
from vqaudio.torch_defaults import one_thread


def sampler_rate(
    net: WaveNet, sampler: Sampler, streams: int, threads: int, *, seconds: float = 0.2, repeats: int = 5
) -> float:
    """Steps per second of streams that are opened once and extended repeatedly, in blocks as `generate` does.

    `threads`: of PyTorch; a sampler may use its own threads besides. The inputs are on the device of the net, and each
    measurement waits until it has finished.
    """
    device = net.out.weight.device
    _, speaker = _inputs(net.cfg, streams, 0, device)
    piece = block_steps(net, streams)
    with _torch_threads(threads):
        opened = sampler.open(speaker, streams)

        def extend(steps: int) -> None:
            for start in range(0, steps, piece):
                part = min(piece, steps - start)
                cond, _ = _inputs(net.cfg, streams, part, device)
                lengths = torch.full((streams,), part)
                opened.extend(cond, torch.rand(streams, part, device=device), lengths)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        if device.type == "cuda":
            extend(net.cfg.hop)  # compiles kernels and records graphs, which would count as slow work
        return streams * median_rate(extend, least=net.cfg.hop, seconds=seconds, repeats=repeats)


def reference_rate(net: WaveNet, threads: int, *, seconds: float = 0.2, repeats: int = 5) -> float:
    """One stream of `reference.generate` after a full receptive field: one pass over the field per step."""
    length = net.cfg.receptive_field
    cond, speaker = _inputs(net.cfg, 1, length)
    x = torch.randint(net.cfg.num_classes, (1, length))

    @torch.inference_mode()
    def run(steps: int) -> None:
        for _ in range(steps):
            logits, _ = net(x, cond, speaker)
            draw(logits[:, :, -1], torch.rand(1), SamplingConfig())

    with _torch_threads(threads):
        return median_rate(run, least=1, seconds=seconds, repeats=repeats)


def wavenet_vocoder_missing() -> str:
    """The reason why `wavenet_vocoder_rate` cannot run; empty if it can."""
    found = importlib.util.find_spec("wavenet_vocoder")
    return "" if found else "not installed: pip install 'vqaudio[bench]'"


def wavenet_vocoder_rate(cfg: WaveNetConfig, threads: int, *, seconds: float = 0.2, repeats: int = 5) -> float:
    """One stream of `incremental_forward` of the package wavenet_vocoder with the same layers, channels and classes.

    It supports a single stream. Weight normalization is removed first, as its authors do.
    """
    package = importlib.import_module("wavenet_vocoder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package is from 2018 and uses the old weight_norm
        net = package.WaveNet(
            out_channels=cfg.num_classes,
            layers=cfg.layers,
            stacks=cfg.layers // cfg.layers_per_stack,
            residual_channels=cfg.residual_channels,
            gate_channels=2 * cfg.residual_channels,
            skip_out_channels=cfg.skip_channels,
            kernel_size=cfg.kernel_size,
            dropout=0.0,
            cin_channels=cfg.cond_dim or -1,
            gin_channels=cfg.cond_hidden_channels if cfg.num_speakers else -1,
            n_speakers=cfg.num_speakers or None,
        )
    net.eval().make_generation_fast_()
    speaker = torch.zeros(1, 1, dtype=torch.long) if cfg.num_speakers else None
    first = torch.eye(cfg.num_classes)[None, :, :1]  # its default first input needs more than 127 classes

    @torch.inference_mode()
    def run(steps: int) -> None:
        cond = torch.randn(1, cfg.cond_dim, steps) if cfg.cond_dim else None
        net.incremental_forward(first, c=cond, g=speaker, T=steps)

    with _torch_threads(threads):
        return median_rate(run, least=cfg.hop, seconds=seconds, repeats=repeats)


def griffin_lim_rate(log_mel: LogMel, *, seconds: float = 0.2, repeats: int = 5) -> float:
    """Samples per second that Griffin-Lim makes of log-mel spectra, on one thread; it has no others."""
    hop, bands = log_mel.cfg.hop_length, log_mel.cfg.n_mels

    def run(steps: int) -> None:
        griffin_lim(log_mel, torch.randn(steps // hop, bands), steps)

    run(hop)  # imports librosa, which takes longer than all the rest
    return median_rate(run, least=hop, seconds=seconds, repeats=repeats)


def istft_rate(vocoder: IstftVocoder, *, seconds: float = 0.2, repeats: int = 5) -> float:
    """Samples per second that the vocoder istft makes of acoustic frames, on one thread; it has no others."""
    bands, generator = vocoder.net.code.in_features - NUM_PITCH_FEATURES, torch.Generator()

    @torch.inference_mode()
    def run(steps: int) -> None:
        count = steps // vocoder.hop
        pitch = Pitch(torch.ones(1, count), torch.full((1, count), MEAN_OCTAVES))
        with one_thread():
            _, state = vocoder.extend(AcousticFrames(torch.randn(1, count, bands), pitch), vocoder.start(), generator)
            vocoder.finish(state, generator)

    return median_rate(run, least=vocoder.hop, seconds=seconds, repeats=repeats)


def median_rate(work: Callable[[int], object], *, least: int, seconds: float, repeats: int) -> float:
    """Steps per second of work(steps), with a number of steps that is a multiple of `least`.

    The median of `repeats` calls of about `seconds` each, after warm-up calls that find the number of steps. Slow work
    has fewer calls, so that the total is at most about twice as long: 3, or the warm-up call alone.
    """
    longest = 2 * repeats * seconds
    steps, elapsed = least, _time(work, least)
    if elapsed > longest:
        return steps / elapsed
    while elapsed < seconds / 4:
        steps *= 2
        elapsed = _time(work, steps)
    steps = max(1, round(steps / least * seconds / elapsed)) * least
    times: list[float] = []
    while len(times) < min(3, repeats) or (len(times) < repeats and sum(times) < longest):
        times.append(_time(work, steps))
    return steps / statistics.median(times)


def _time(work: Callable[[int], object], steps: int) -> float:
    began = time.perf_counter()
    work(steps)
    return time.perf_counter() - began


def _inputs(
    cfg: WaveNetConfig, streams: int, steps: int, device: torch.device | str = "cpu"
) -> tuple[Tensor | None, Tensor | None]:
    """Random conditioning (B, D, N) for T steps and speakers (B,)."""
    cond = torch.randn(streams, cfg.cond_dim, -(-steps // cfg.hop), device=device) if cfg.cond_dim else None
    return cond, torch.arange(streams, device=device) % cfg.num_speakers if cfg.num_speakers else None


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
