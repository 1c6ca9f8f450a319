"""Speed of training, decoding and tokenizing on a GPU, as real-time factors (audio seconds per second) and as ratios.

    python egs/gpu/bench.py --out OUT                 writes OUT/bench.json and OUT/bench.md; skips what they have
    python egs/gpu/bench.py --out OUT --seconds 420   stops after this time; the same command continues
    python egs/gpu/bench.py --out OUT --tiny          tiny sizes, on a CPU: shows that it runs, and no figure of use

Each group of measurements runs in a process of its own: a kernel that fails on a GPU, or never ends, takes nothing
else with it. What failed is in the table with the reason, and is not measured again; what time cut off is. Weights are
random but for the shipped tokenizer: time does not depend on them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from vqaudio.atomic import atomic_file, save_json
from vqaudio.benchmark.rates import sampler_rate
from vqaudio.benchmark.speed import BASE
from vqaudio.checkpoint import load_model
from vqaudio.config import from_dict
from vqaudio.data.audio import Failures, write_audio
from vqaudio.data.audio_folders import Source
from vqaudio.json_text import parse_json
from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.backends import Backend, cuda_graph, fused, ring_buffers
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.model import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.tokens.bulk import tokenize_all
from vqaudio.training import FitConfig, fit
from vqaudio.training.metrics_file import read_metrics

ROOT = Path(__file__).parent.parent.parent
SAMPLE_RATE = 16000  # Hz, of all models that are timed
NUM_SPEAKERS = 109
GROUP_SECONDS = 180.0  # seconds that a group may take; a compilation takes a minute
NAMES = {  # groups of measurements, each in a process of its own; ratios are to the first of a kind of work
    "training-eager": "training `base`, eager",
    "training-compiled": "training `base`, decoder compiled",
    "decoding-ring": "decoding with `base`, ring buffers",
    "decoding-graph": "decoding with `base`, CUDA graph",
    "decoding-fused": "decoding with `base`, fused kernel, float32",
    "decoding-fused-bf16": "decoding with `base`, fused kernel, bf16",
    "tokenizing": "tokenizing with `mini`",
    "tokenizing-many": "tokenizing many utterances with `mini`, from waveforms",
    "tokenizing-files": "tokenizing many utterances with `mini`, from FLAC files, read ahead",
    "tokenizing-encodec": "tokenizing with EnCodec (24 kHz, 6 kb/s)",
}
BACKENDS: dict[str, tuple[Backend, SamplingConfig]] = {
    "decoding-ring": (ring_buffers, SamplingConfig()),
    "decoding-graph": (cuda_graph, SamplingConfig()),
    "decoding-fused": (fused, SamplingConfig()),
    "decoding-fused-bf16": (fused, SamplingConfig(precision="bf16")),
}


@dataclass(frozen=True)
class BenchConfig:
    """Sizes of the measurements."""

    crops: tuple[int, ...] = (16, 64)
    """crops of a training step"""
    samples: int = 8192
    """length of a crop"""
    steps: int = 25
    """training steps between two readings of the clock; the first of `readings` warms up"""
    readings: int = 4
    streams: tuple[int, ...] = (1, 64, 256, 1024)
    """streams that are decoded together"""
    seconds: float = 1.0
    """approximate duration of a measurement of decoding"""
    utterances: tuple[int, ...] = (1, 16)
    """utterances that are tokenized at once"""
    many: int = 1024
    """utterances of a corpus"""
    utterance_seconds: int = 10
    tiny: bool = False
    """tiny models, and nothing that compiles"""


FULL = BenchConfig()
TINY = BenchConfig((2,), 512, 1, 2, (1, 2), 0.01, (1,), 3, 1, tiny=True)


class Row(NamedTuple):
    """A measurement. Without a factor, `note` has the reason."""

    group: str
    size: int  # crops of a step, streams, or utterances at once
    rtf: float | None  # audio seconds per second, of all together
    note: str = ""


# --- what is measured ---


class Noise:
    """A loader of one batch of noise on the device; time does not depend on the audio."""

    def __init__(self, crops: int, samples: int, device: str):
        noise = torch.Generator().manual_seed(0)
        batch = {
            "wav": 0.1 * torch.randn(crops, 1, samples, generator=noise),
            "target": torch.randint(256, (crops, samples), generator=noise),
            "speaker": torch.arange(crops) % NUM_SPEAKERS,
            "lengths": torch.full((crops,), samples),
        }
        self.joint = {name: value.to(device) for name, value in batch.items()}
        self.seconds_per_step = crops * samples / SAMPLE_RATE

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
        return {name: value.chunk(parts)[part] for name, value in self.joint.items()}


def training(group: str, cfg: BenchConfig, device: str) -> Iterator[Row]:
    """Steps of `fit` as they are, from the factors that it logs itself."""
    import yaml

    settings = yaml.safe_load((ROOT / "egs/vctk/conf/base.yaml").read_text())["model"]
    settings["speakers"] = [f"s{i}" for i in range(NUM_SPEAKERS)]
    model_cfg = from_dict(SpeechVQVAEConfig, settings)
    if cfg.tiny:
        model_cfg = replace(model_cfg, decoder=replace(model_cfg.decoder, layers=2, layers_per_stack=2))
    for crops in cfg.crops:
        model = SpeechVQVAE(model_cfg)
        compiled = group == "training-compiled"
        if compiled and cfg.tiny:
            model.decoder.compile(backend="eager", dynamic=False)
        every, steps = cfg.steps, cfg.steps * cfg.readings
        compile = "true" if compiled and not cfg.tiny else "false"
        fit_cfg = FitConfig(steps=steps, log_every=every, save_every=steps, codebook_init_batches=1, compile=compile)
        with tempfile.TemporaryDirectory() as folder:
            fit(model, Noise(crops, cfg.samples, device), fit_cfg, folder)
            rows = [row for row in read_metrics(Path(folder) / "metrics.jsonl") if row["step"] > every]
        yield Row(group, crops, statistics.median(row["rtf"] for row in rows))


def decoding(group: str, cfg: BenchConfig, device: str) -> Iterator[Row]:
    """Streams of the decoder of `base`, all together."""
    sizes = replace(BASE.net, layers=2, layers_per_stack=2, residual_channels=8, skip_channels=8, hop=2)
    net = WaveNet(sizes if cfg.tiny else BASE.net).eval().requires_grad_(False).to(device)
    backend, sampling = BACKENDS[group]
    for streams in cfg.streams:
        sampler = backend(net, sampling)
        rate = sampler_rate(net, sampler, streams, 1, seconds=cfg.seconds, repeats=3)
        yield Row(group, streams, rate / SAMPLE_RATE)


def tokenizing(group: str, cfg: BenchConfig, device: str) -> Iterator[Row]:
    """Utterances of equal length, from waveforms on the device to codes."""
    model = load_model("mini", device)
    for count in cfg.utterances:
        wavs = 0.1 * torch.randn(count, 1, cfg.utterance_seconds * model.sample_rate, device=device)
        yield Row(group, count, cfg.utterance_seconds * count / median_seconds(lambda w=wavs: model.encode(w), device))


def tokenizing_many(group: str, cfg: BenchConfig, device: str) -> Iterator[Row]:
    """A corpus of utterances of equal length, as `vqaudio tokenize` takes it, without writing the codes."""
    model = load_model("mini", device)
    wavs = [0.1 * torch.randn(cfg.utterance_seconds * model.sample_rate) for _ in range(min(cfg.many, 64))]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.flac" for i in range(len(wavs))]
        for path, wav in zip(files, wavs, strict=True):
            write_audio(path, wav.numpy(), model.sample_rate)
        places = [i % len(wavs) for i in range(cfg.many)]
        sources = [Source(str(number), files[i], None) for number, i in enumerate(places)]

        def work() -> int:
            if group == "tokenizing-many":
                return sum(map(len, model.encode_each([wavs[i]] for i in places)))
            failures: Failures = []
            return sum(len(row.tokens.codes) for row in tokenize_all(model, sources, failures))

        yield Row(group, cfg.many, cfg.utterance_seconds * cfg.many / median_seconds(work, device, 3))


def encodec(group: str, cfg: BenchConfig, device: str) -> Iterator[Row]:
    """The same durations with EnCodec, if transformers is installed."""
    if importlib.util.find_spec("transformers") is None:
        yield Row(group, cfg.utterances[0], None, "transformers is not installed")
        return
    transformers = cast(Any, importlib.import_module("transformers"))
    peer = transformers.EncodecModel(transformers.EncodecConfig()).eval().to(device)
    for count in cfg.utterances:
        wavs = 0.1 * torch.randn(count, 1, cfg.utterance_seconds * peer.config.sampling_rate, device=device)
        with torch.inference_mode():
            took = median_seconds(lambda w=wavs: peer.encode(w, bandwidth=6.0), device)
        yield Row(group, count, cfg.utterance_seconds * count / took)


def median_seconds(work: Callable[[], object], device: str, repeats: int = 5) -> float:
    """Seconds of a call after one that warms up; each waits for the device."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


WORK: dict[str, Callable[[str, BenchConfig, str], Iterator[Row]]] = {
    "training": training,
    "decoding": decoding,
    "tokenizing": tokenizing,
    "tokenizing-many": tokenizing_many,
    "tokenizing-files": tokenizing_many,
    "tokenizing-encodec": encodec,
}


def measure(group: str, cfg: BenchConfig, device: str) -> None:
    """In the process of a group: prints a row of JSON for each measurement."""
    torch.manual_seed(0)
    for row in WORK.get(group, WORK[work_of(group)])(group, cfg, device):
        print(json.dumps(row), flush=True)


# --- the groups, one process after another ---


def work_of(group: str) -> str:
    return group.partition("-")[0]


def run_group(group: str, cfg: BenchConfig, device: str, seconds: float) -> tuple[list[Row], bool]:
    """Rows of a group, measured in a process that is killed after `seconds`, and whether they are all."""
    command = [sys.executable, __file__, "--group", group, "--device", device, *(["--tiny"] if cfg.tiny else [])]
    environment = dict(os.environ)
    if device == "cpu":
        environment |= {"TRITON_INTERPRET": "1", "ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = min(seconds, GROUP_SECONDS)
    try:
        output, errors = process.communicate(timeout=limit)
        reason = (errors.strip().splitlines() or ["no reason was given"])[-1]
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        reason = f"it took more than {limit:.0f} seconds"
        if seconds < GROUP_SECONDS:
            return rows_in(output), False
    found = rows_in(output)
    return (found if process.returncode == 0 else [*found, Row(group, 0, None, reason[:200])]), True


def rows_in(output: str) -> list[Row]:
    """The rows among the lines that a process printed."""
    return [Row(*parse_json(line)) for line in output.splitlines() if line.startswith("[")]


def machine(device: str) -> dict[str, Any]:
    """What the figures belong to."""
    facts: dict[str, Any] = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
    if device == "cuda":
        found = torch.cuda.get_device_properties(0)
        facts |= {"name": found.name, "gigabytes": round(found.total_memory / 1e9, 1), "cuda": torch.version.cuda}
        facts["capability"] = f"{found.major}.{found.minor}"
    else:
        facts["name"] = platform.processor() or platform.machine()
    return facts


def bench(out: Path, cfg: BenchConfig, device: str, seconds: float) -> bool:
    """Measures all groups that OUT/bench.json lacks -> whether it is complete now.

    Raises ValueError if the file is of another machine or of other sizes.
    """
    end = time.monotonic() + seconds
    results: dict[str, Any] = {"machine": machine(device), "sizes": asdict(cfg), "groups": {}}
    results = parse_json(json.dumps(results))  # as it is read again: lists instead of tuples
    path = out / "bench.json"
    if path.exists():
        before = parse_json(path.read_bytes())
        if any(before[name] != results[name] for name in ("machine", "sizes")):
            raise ValueError(f"{path} was measured on another machine or with other sizes; choose another --out")
        results = before
    out.mkdir(parents=True, exist_ok=True)
    for group, name in NAMES.items():
        if group in results["groups"]:
            continue
        left = end - time.monotonic()
        if left <= 0:
            print(f"the time is over before: {name}", flush=True)
            return False
        rows, complete = run_group(group, cfg, device, left)
        if complete:
            results["groups"][group] = [row._asdict() for row in rows]
            save_json(path, results, overwrite=True)
            with atomic_file(out / "bench.md", overwrite=True) as table_path:
                table_path.write_text(table(results), encoding="utf-8")
        for row in rows:
            print(f"{name}, {row.size}: {row.note or f'RTF {row.rtf:.4g}'}", flush=True)
    return True


def table(results: dict[str, Any]) -> str:
    """Markdown: factors of all streams, crops or utterances together, and their ratios to the first of its kind."""
    facts = results["machine"]
    lines = [f"{facts['name']} ({facts['device']}), torch {facts['torch']}"]
    if results["sizes"]["tiny"]:
        lines.append("\nTiny sizes: these figures only show that the measurement runs.")
    lines += ["", "| work | at once | real-time factor | ratio | |", "|---|---|---|---|---|"]
    first: dict[tuple[str, int], float] = {}
    for group, rows in results["groups"].items():
        for row in (Row(**each) for each in rows):
            if row.rtf is None:
                lines.append(f"| {NAMES[group]} | | | | {row.note.replace('|', '/')} |")
                continue
            base = first.setdefault((work_of(group), row.size), row.rtf)
            lines.append(f"| {NAMES[group]} | {row.size} | {row.rtf:.3g} | {row.rtf / base:.3g} | |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of bench.json and bench.md")
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after this time; default: %(default)s")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes")
    parser.add_argument("--group", choices=NAMES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    cfg = TINY if chosen.tiny else FULL
    if chosen.group:
        measure(chosen.group, cfg, chosen.device)
        return 0
    if chosen.out is None:
        parser.error("--out is needed")
    try:
        return 0 if bench(chosen.out, cfg, chosen.device, chosen.seconds) else 3
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
