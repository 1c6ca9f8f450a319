"""Speed of a training step, compared with the plain eager form of the same model in the same run.

    python tests/bench/bench_train.py

Prints audio seconds per second of training and their ratio: absolute numbers belong to a machine, ratios carry over.
The plain form is written out below as is usual: (B, C, T) convolutions with padding, a skip convolution of its
own in every layer, codes and speaker repeated to the sample rate and projected there in every layer, float32, Adam
with its defaults. Before it is timed it must give our logits from our weights. Trials alternate.

Letters: B crops, T samples of each, N frames, C channels, H hidden channels of the conditioning, R residual channels.
"""

from __future__ import annotations

import argparse
import copy
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.config import from_dict
from vqaudio.nn.conv import CausalConv1d, ResidualBlock1d
from vqaudio.speech.model import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.training.config import FitConfig
from vqaudio.training.fit import _Run  # a step as `fit` does it, and no other

ROOT = Path(__file__).parents[2]
NUM_SPEAKERS = 109
MATRIX_OPERATIONS = ("mm", "addmm", "addmm_", "bmm", "mkldnn_convolution", "convolution_backward", "mkldnn_linear")
TRIALS = 3


class Size(NamedTuple):
    """A preset and the crops of a step."""

    preset: str
    crops: int
    samples: int

    def seconds(self) -> float:
        return self.crops * self.samples / 16000


BASE, MINI = Size("egs/vctk/conf/base.yaml", 8, 8192), Size("egs/mini/conf/mini.yaml", 4, 5120)


# --- the two forms ---


def our_model(size: Size) -> SpeechVQVAE:
    """The preset's architecture with random weights."""
    settings = yaml.safe_load((ROOT / size.preset).read_text())["model"]
    settings["speakers"] = [f"s{i}" for i in range(NUM_SPEAKERS)]
    torch.manual_seed(0)
    return SpeechVQVAE(from_dict(SpeechVQVAEConfig, settings))


class Noise:
    """A loader of one batch of noise; the time does not depend on the audio."""

    def __init__(self, size: Size):
        noise = torch.Generator().manual_seed(0)
        self.joint = {
            "wav": 0.1 * torch.randn(size.crops, 1, size.samples, generator=noise),
            "target": torch.randint(256, (size.crops, size.samples), generator=noise),
            "speaker": torch.arange(size.crops) % NUM_SPEAKERS,
            "lengths": torch.full((size.crops,), size.samples),
        }
        self.seconds_per_step = size.seconds()

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
        return {name: value.chunk(parts)[part] for name, value in self.joint.items()}


def our_step(size: Size, folder: Path) -> Callable[[], None]:
    """One update of the weights by `fit`'s own code."""
    loader = Noise(size)
    run = _Run(our_model(size), loader, FitConfig(steps=10**6, log_every=10**6), folder, None, None, {})
    batch = loader.batch(0, run.first_part, run.parts)

    def step() -> None:
        run.train_step(0, [batch])
        run.logs.clear()

    return step


class Plain(nn.Module):
    """The same model, as it is usually written, with the quantizer of this package."""

    def __init__(self, model: SpeechVQVAE):
        super().__init__()
        self.encoder_cfg, self.decoder_cfg = model.cfg.encoder, model.cfg.decoder
        self.normalizer, self.quantizer = copy.deepcopy(model.normalizer), copy.deepcopy(model.quantizer)
        encoder, decoder = model.encoder, model.decoder
        self.stages = nn.ModuleList(convolution(stage) for stage in encoder.stages)
        blocks = cast(list[ResidualBlock1d], list(encoder.blocks))
        self.blocks = nn.ModuleList(convolution(block.conv) for block in blocks)
        self.block_outs = nn.ModuleList(convolution(block.out) for block in blocks)
        self.encoder_out = convolution(encoder.out)
        assert decoder.condition and decoder.project and decoder.speaker
        self.embed, self.speaker = copy.deepcopy(decoder.embed), copy.deepcopy(decoder.speaker)
        self.condition = convolution(decoder.condition)
        layers, r = decoder.cfg.layers, decoder.cfg.residual_channels
        weights, biases = decoder.project.weight.chunk(layers), decoder.project.bias.chunk(layers)
        self.projects = nn.ModuleList(pointwise(w, b) for w, b in zip(weights, biases, strict=True))
        self.dilated = nn.ModuleList(convolution(conv) for conv in decoder.dilated)
        self.residual = nn.ModuleList(convolution(path) for path in decoder.residual)
        parts, bias = decoder.skip.weight.split(r, dim=1), decoder.skip.bias
        self.skips = nn.ModuleList(pointwise(w, 0 * bias if layer else bias) for layer, w in enumerate(parts))
        self.head, self.out = convolution(decoder.head), convolution(decoder.out)

    def encode(self, wav: Tensor) -> Tensor:
        """(B, 1, T) -> (B, D, N)."""
        lookahead = self.encoder_cfg.lookahead
        x = F.pad(wav[:, :, lookahead:], (0, lookahead)) * self.encoder_cfg.input_gain
        for stage, stride in zip(self.stages, self.encoder_cfg.strides, strict=True):
            x = F.relu(stage(F.pad(x, (stride, 0))))
        for block, out, dilation in zip(self.blocks, self.block_outs, self.encoder_cfg.dilations, strict=True):
            past = (self.encoder_cfg.kernel_size - 1) * dilation
            x = x + out(F.relu(block(F.pad(F.relu(x), (past, 0)))))
        return self.encoder_out(F.relu(x))

    def logits(self, target: Tensor, z_q: Tensor, speaker: Tensor) -> Tensor:
        """(B, T), (B, D, N), (B,) -> (B, Q, T)."""
        cfg = self.decoder_cfg
        x = self.embed(F.pad(target[:, :-1], (1, 0), value=cfg.num_classes)).transpose(1, 2)  # (B, R, T)
        local = z_q.repeat_interleave(cfg.hop, dim=2)  # (B, D, T)
        voice = self.speaker(speaker)[:, :, None].expand(-1, -1, target.shape[1])  # (B, H, T)
        hidden = F.relu(self.condition(local) + voice)
        total = torch.zeros(())
        for layer, dilation in enumerate(cfg.dilations):
            past = (cfg.kernel_size - 1) * dilation
            y = self.dilated[layer](F.pad(x, (past, 0))) + self.projects[layer](hidden)
            signal, switch = y.chunk(2, dim=1)
            z = torch.tanh(signal) * torch.sigmoid(switch)
            total = total + self.skips[layer](z)
            if layer < cfg.layers - 1:
                x = x + self.residual[layer](z)
        return self.out(F.relu(self.head(F.relu(total))))

    def forward(self, wav: Tensor, target: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
        q = self.quantizer(self.normalizer(self.encode(wav)))
        return F.cross_entropy(self.logits(target, q.z_q, speaker), target) + q.loss


def convolution(layer: nn.Module) -> nn.Conv1d:
    """A layer of this package as a convolution of (B, C, T) with the same weights."""
    assert isinstance(layer, (CausalConv1d, nn.Linear))
    if isinstance(layer, nn.Linear):
        return pointwise(layer.weight, layer.bias)
    c_out, c_in, kernel = layer.weight.shape
    made = nn.Conv1d(c_in, c_out, kernel, stride=layer.stride, dilation=layer.dilation)
    return with_weights(made, layer.weight, layer.bias)


def pointwise(weight: Tensor, bias: Tensor) -> nn.Conv1d:
    return with_weights(nn.Conv1d(weight.shape[1], weight.shape[0], 1), weight[:, :, None], bias)


def with_weights(made: nn.Conv1d, weight: Tensor, bias: Tensor) -> nn.Conv1d:
    assert made.bias is not None
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made


def plain_step(size: Size) -> Callable[[], None]:
    """One update of the weights, in float32, with Adam and its defaults."""
    plain, batch = Plain(our_model(size)), Noise(size).batch(0)
    optimizer = torch.optim.Adam(plain.parameters(), lr=6e-4)

    def step() -> None:
        optimizer.zero_grad()
        plain(**batch).backward()
        optimizer.step()

    return step


def assert_same_model(size: Size) -> float:
    """Largest difference of the two forms' logits from the same weights, in float32."""
    ours, batch = our_model(size), Noise(size._replace(crops=2, samples=2048)).batch(0)
    plain = Plain(ours)
    z, _ = ours.encoder(batch["wav"])
    torch.testing.assert_close(plain.encode(batch["wav"]), z, rtol=1e-3, atol=1e-3)
    logits, _ = ours.decoder(ours.decoder.shift(batch["target"]), z, batch["speaker"])  # as in training: with gradients
    difference = (plain.logits(batch["target"], z, batch["speaker"]) - logits).abs().max().item()
    assert difference < 1e-3, f"the plain form is another model: logits differ by {difference:.2g}"
    return difference


# --- what is shown ---


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare_forms(folder: Path) -> None:
    print("Training, audio seconds per second (higher is faster), medians of alternating trials:")
    print("  preset  crops  samples  threads   vqaudio    plain   ratio  logits within")
    for size, threads in ((MINI, 1), (BASE, 1), (BASE, 2)):
        difference = assert_same_model(size)
        ours, plain = our_step(size, folder), plain_step(size)
        torch.set_num_threads(threads)
        ours()
        plain()
        pairs = [(seconds(ours), seconds(plain)) for _ in range(TRIALS)]
        ratio = statistics.median(slow / fast for fast, slow in pairs)
        rates = [size.seconds() / statistics.median(times) for times in zip(*pairs, strict=True)]
        print(
            f"{Path(size.preset).stem:>8}{size.crops:7d}{size.samples:9d}{threads:9d}{rates[0]:10.2f}{rates[1]:9.2f}"
            f"{ratio:8.2f}  {difference:.1g}",
            flush=True,
        )


def show_shares(folder: Path) -> None:
    """Of the processor time that PyTorch's operations and what they call take themselves."""
    from torch.profiler import ProfilerActivity, profile

    print("Fraction of the step in matrix products and convolutions (torch.profiler, one thread):")
    for size in (BASE._replace(crops=4), MINI):
        for name, step in {"vqaudio": our_step(size, folder), "plain": plain_step(size)}.items():
            torch.set_num_threads(1)
            step()
            with profile(activities=[ProfilerActivity.CPU], acc_events=True) as measured:
                step()
            spent = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in measured.key_averages()}
            share = sum(spent.get(operation, 0) for operation in MATRIX_OPERATIONS) / sum(spent.values())
            print(f"{Path(size.preset).stem:>8}  {name:8}{share:6.0%}", flush=True)


def show_batches(folder: Path) -> None:
    print("Growth with the batch (base, one thread), audio seconds per second:")
    sizes = [BASE._replace(crops=crops) for crops in (2, 4, 8, 16)]
    steps = [our_step(size, folder) for size in sizes]
    torch.set_num_threads(1)
    for step in steps:
        step()
    times = [[seconds(step) for step in steps] for _ in range(TRIALS)]
    for size, column in zip(sizes, zip(*times, strict=True), strict=True):
        print(f"{size.crops:8d} crops{size.seconds() / statistics.median(column):10.2f}", flush=True)


def show_processes() -> None:
    print(f"Growth with processes (base, {BASE.crops} crops in all), audio seconds per second:")
    for processes, threads in ((1, 1), (1, 2), (2, 1)):
        rate = BASE.seconds() / processes_seconds(processes, threads)
        print(f"{processes:8d} process(es) of {threads} thread(s){rate:8.2f}", flush=True)


def processes_seconds(processes: int, threads: int) -> float:
    """Median seconds of a step in processes that are started for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": str(threads),
        **(group if processes > 1 else {}),
    }
    command = [sys.executable, __file__, "--steps-with", str(threads)]
    started = []
    for rank in range(processes):
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else common
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"a process of {processes} failed: {outputs}")
    return max(float(output.split()[-1]) for output in outputs)


def report_steps(threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        step = our_step(BASE, Path(folder))
        torch.set_num_threads(threads)  # overrides the setting of Accelerate
        step()
        print(statistics.median(seconds(step) for _ in range(TRIALS + 2)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps-with", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps_with:
        report_steps(arguments.steps_with)
    else:
        with tempfile.TemporaryDirectory() as name:
            compare_forms(Path(name))
            show_shares(Path(name))
            show_batches(Path(name))
        show_processes()
