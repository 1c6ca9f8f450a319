"""Speed of tokenization, compared with EnCodec in the same run, and peak memory of tokenizing one hour.

    python tests/bench/bench_tokenize.py

Prints real-time factors (audio seconds per second) and their ratio: absolute numbers belong to a machine, ratios
carry over. Both models have random weights; the time does not depend on them. EnCodec (transformers.EncodecModel,
24 kHz, 6 kb/s) encodes the same duration at its sample rate.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from vqaudio.config import from_dict
from vqaudio.speech.model import SpeechVQVAE, SpeechVQVAEConfig

BASE = Path(__file__).parents[2] / "egs/vctk/conf/base.yaml"
REPEATS = 5


def base_model() -> SpeechVQVAE:
    """The `base` preset with random weights."""
    import yaml

    config = from_dict(SpeechVQVAEConfig, yaml.safe_load(BASE.read_text())["model"])
    return SpeechVQVAE(config).eval()


def median_seconds(work: Callable[[], object]) -> float:
    """Of `REPEATS` calls after one that warms up."""
    work()
    elapsed = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        elapsed.append(time.perf_counter() - began)
    return statistics.median(elapsed)


def compare_speed() -> None:
    """Tokenization of 10 s and 60 s with one and two threads."""
    from transformers import EncodecConfig, EncodecModel

    ours, encodec = base_model(), EncodecModel(EncodecConfig()).eval()
    print("Tokenization, real-time factor (higher is faster):")
    print(f"{'seconds':>8}{'threads':>9}{'vqaudio':>10}{'EnCodec':>10}{'ratio':>8}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for seconds in (10, 60):
            wav = torch.randn(1, 1, seconds * ours.sample_rate) * 0.1
            peer_wav = torch.randn(1, 1, seconds * encodec.config.sampling_rate) * 0.1
            with torch.inference_mode():
                mine = seconds / median_seconds(lambda wav=wav: ours.encode(wav))
                peer = seconds / median_seconds(lambda wav=peer_wav: encodec.encode(wav, bandwidth=6.0))
            print(f"{seconds:8d}{threads:9d}{mine:10.1f}{peer:10.1f}{mine / peer:8.2f}", flush=True)


def compare_memory() -> None:
    """Peak resident memory of a process that tokenizes a file of one minute, ten minutes, one hour."""
    print("Peak memory of tokenizing one file:")
    with tempfile.TemporaryDirectory() as folder:
        for minutes in (1, 10, 60):
            path = Path(folder) / f"{minutes}.wav"
            noise = np.random.default_rng(0)
            with soundfile.SoundFile(path, "w", 16000, 1) as file:
                for _ in range(minutes):
                    file.write(noise.uniform(-0.1, 0.1, 60 * 16000).astype(np.float32))
            command = [sys.executable, __file__, "--memory-of", str(path)]
            print(f"{minutes:6d} min: {subprocess.check_output(command, text=True).strip()}", flush=True)


def peak_megabytes() -> float:
    """Highest resident memory of this process, from Linux (getrusage would count the parent's before exec)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def report_memory(path: str) -> None:
    model = base_model()
    before = peak_megabytes()
    tokens = model.tokenize(path)
    peak = peak_megabytes()
    print(f"{peak:.0f} MB, {before:.0f} of it before the first sample; {len(tokens.codes)} tokens")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        report_memory(arguments.memory_of)
    else:
        compare_speed()
        compare_memory()
