"""Two and three processes must equal one with the global batch: losses, gradients, weights, codebooks, restarts.

The processes run this file too. `test_distributed.py FOLDER`: a run of each of the KINDS.
`test_distributed.py FOLDER RECIPE ...`: the recipe; what it writes below --out is noted in FOLDER.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, load_model
from vqaudio.nn.context import ContextConfig
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.units import UnitsConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.training import FitConfig, fit
from vqaudio.training.loader import Batch
from vqaudio.training.metrics_file import read_metrics

SAMPLES, STEPS = 160, 6
FULL, RAGGED, NOTHING = [SAMPLES] * 6, [160, 151, 80, 33, 8, 1], [160, 90, 160, 0, 0, 0]
MODEL = SpeechVQVAEConfig(
    speakers=("anna", "bert"),
    encoder=EncoderConfig(strides=(2, 4), channels=(6, 8), dilations=(1,), dim=4, lookahead=11),
    quantizer=VectorQuantizerConfig(codebook_size=12, dim=4, restart_threshold=0.5),
    decoder=WaveNetConfig(
        num_classes=16, layers=2, layers_per_stack=2, residual_channels=6, skip_channels=8, cond_hidden_channels=8
    ),
)
FIT = FitConfig(
    steps=STEPS,
    lr=3e-3,
    lr_warmup_steps=2,
    precision="no",
    ema_decay=0.0,
    codebook_init_batches=2,
    log_every=1,
    save_every=99,
)


WITH_SPECTRUM = {
    "context": ContextConfig(dilations=(1, 2), channels=6),
    "spectrum": LogMelConfig(n_mels=5, hop_length=8, win_length=24),
}
UNITS = UnitsConfig(
    num_clusters=7, num_cepstra=3, hop_length=4, channels=6, cluster_offsets=(-2, 0, 1), cepstrum_offsets=(0, 2)
)


class Kind(NamedTuple):
    """What is trained on what."""

    lengths: list[int] = FULL  # valid samples of the crops of the global batch
    quantizer: dict[str, Any] = {}  # noqa: RUF012
    model: dict[str, Any] = {}  # noqa: RUF012
    fit: dict[str, Any] = {}  # noqa: RUF012


KINDS = {
    "plain": Kind(),
    "no restarts": Kind(quantizer={"restart_threshold": 0.0}),
    "padding of very different length": Kind(RAGGED),
    "nothing but padding on the last process": Kind(NOTHING),
    "5 crops": Kind(RAGGED[:5]),
    "two passes per step": Kind(RAGGED, fit={"gradient_accumulation_steps": 2}),
    "gradient codebook, affine": Kind(
        RAGGED, quantizer={"codebook_update": "gradient"}, model={"normalizer": "affine"}
    ),
    "stage codes": Kind(RAGGED, model={**WITH_SPECTRUM, "stage": "codes"}),
    "target units": Kind(RAGGED, model={**WITH_SPECTRUM, "stage": "codes", "target": "units", "units": UNITS}),
    "with log-mel loss": Kind(RAGGED, model=WITH_SPECTRUM),
    "bf16": Kind(fit={"precision": "bf16"}),
}
PROCESSES = (1, 2, 3)
ALONE = {"two passes per step": "padding of very different length"}
"""what a kind must equal, where that is not itself on one process"""
OF_THE_JOINT_BATCH = ("loss", "gradient_norm", "gradient_norm/encoder", "gradient_norm/decoder")


class Crops:
    """Batches of fixed noise."""

    seconds_per_step = 0.0

    def __init__(self, kind: Kind):
        self.lengths, self.with_units = torch.tensor(kind.lengths), kind.model.get("target") == "units"

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        generator, count = torch.Generator().manual_seed(step), len(self.lengths)
        wav = torch.rand(count, 1, SAMPLES, generator=generator).cumsum(2).sin()
        target = torch.randint(16, (count, SAMPLES), generator=generator)
        batch = {"wav": wav, "target": target, "speaker": torch.arange(count) % 2, "lengths": self.lengths}
        if self.with_units:
            frames = SAMPLES // 4 + 2 * UNITS.margin
            batch["units"] = torch.randint(-1, 7, (count, frames), generator=generator)
            batch["cepstra"] = torch.randn(count, frames, 3, generator=generator)
            batch["past"] = torch.rand(count, 1, 32, generator=generator)
            batch["past_lengths"] = torch.randint(33, (count,), generator=generator)
            batch["future"] = torch.rand(count, 1, 11, generator=generator)
        mine = slice(count * part // parts, count * (part + 1) // parts)
        return {name: value[mine] for name, value in batch.items()}


class Watched(SpeechVQVAE):
    """Remembers the codebook before every forward pass in training."""

    def __init__(self, cfg: SpeechVQVAEConfig):
        super().__init__(cfg)
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append(
            {name: value.detach().clone() for name, value in self.get_submodule("quantizer").state_dict().items()}
        )
        return super().forward(*args, **kwargs)


def _train(kind: Kind, folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """One run in one of the processes -> what this process has in the end."""
    AcceleratorState._reset_state(reset_partial_state=True)  # the run before may have had another precision
    if processes > 1 and not torch.distributed.is_initialized():  # a run ends its group
        store = f"file://{folder.parent / folder.name.replace(' ', '-')}.rendezvous"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    torch.manual_seed(rank)  # processes start with different weights; those of the first are used
    cfg = replace(MODEL, quantizer=replace(MODEL.quantizer, **kind.quantizer), **kind.model)
    model = fit(Watched(cfg), Crops(kind), replace(FIT, **kind.fit), folder)
    return {"state": model.state_dict(), "seen": model.seen}


def _work(folder: Path) -> None:
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    found = {name: _train(kind, folder / name, rank, processes) for name, kind in KINDS.items()}
    torch.save(found, folder / f"{rank}.pt")


class Found(NamedTuple):
    """The results of all kinds with a number of processes."""

    folder: Path
    ranks: list[dict[str, Any]]

    def state(self, kind: str) -> dict[str, Tensor]:
        return self.ranks[0][kind]["state"]

    def rows(self, kind: str) -> list[dict[str, Any]]:
        return read_metrics(self.folder / kind / "metrics.jsonl")


@pytest.fixture(scope="module")
def found(host, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Found]:
    """By the number of processes."""
    folders = {processes: tmp_path_factory.mktemp(f"processes{processes}") for processes in PROCESSES}
    runs = {processes: host.start(__file__, folder, processes=processes) for processes, folder in folders.items()}
    for run in runs.values():
        run.finish()
    return {
        processes: Found(folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(processes)])
        for processes, folder in folders.items()
    }


SEVERAL = pytest.mark.parametrize("processes", PROCESSES[1:])
IN_FLOAT32 = pytest.mark.parametrize("kind", [name for name in KINDS if name != "bf16"])


@SEVERAL
@pytest.mark.parametrize("kind", KINDS)
def test_all_processes_hold_the_same_model_to_the_bit_at_every_step(found, kind, processes) -> None:
    first, *others = (rank[kind] for rank in found[processes].ranks)
    assert (
        len(first["seen"]) == KINDS[kind].fit.get("gradient_accumulation_steps", 1) * STEPS + FIT.codebook_init_batches
    )
    for other in others:
        for i, (left, right) in enumerate(zip(first["seen"], other["seen"], strict=True)):
            if i:  # before the first batch there is nothing to share
                assert all(torch.equal(left[name], right[name]) for name in left), f"forward pass {i}"
        assert all(torch.equal(value, other["state"][name]) for name, value in first["state"].items())


@SEVERAL
@IN_FLOAT32
def test_losses_and_gradients_are_those_of_the_joint_batch(found, kind, processes) -> None:
    alone = found[1].rows(ALONE.get(kind, kind))
    for row, expected in zip(found[processes].rows(kind), alone, strict=True):
        for name in OF_THE_JOINT_BATCH:
            assert row[name] == pytest.approx(expected[name], rel=1e-4), (row["step"], name)
        if "gradient_accumulation_steps" not in KINDS[kind].fit:  # these are means over forward passes
            for name in ("perplexity", "usage", "dead_codes"):
                assert row[name] == pytest.approx(expected[name], rel=1e-4), (row["step"], name)
        if KINDS[kind].lengths is FULL:  # with padding it is the mean of the parts' means
            assert row["bits_per_sample"] == pytest.approx(expected["bits_per_sample"], rel=1e-4), row["step"]


@SEVERAL
@IN_FLOAT32
def test_weights_and_codebook_are_those_of_the_joint_batch(found, kind, processes) -> None:
    state, alone = found[processes].state(kind), found[1].state(ALONE.get(kind, kind))
    for name, value in alone.items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("kind", ALONE)
def test_accumulated_equals_at_once_on_one_process(found, kind) -> None:
    for name, value in found[1].state(ALONE[kind]).items():
        torch.testing.assert_close(found[1].state(kind)[name], value, rtol=1e-3, atol=2e-5)


def test_the_kinds_are_what_they_are_called(found) -> None:
    alone = found[1]
    names = list(KINDS)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            if ALONE.get(other) != name:
                left, right = alone.state(name), alone.state(other)
                assert not all(torch.allclose(value.float(), right[n].float()) for n, value in left.items())
    with_restarts, without = (alone.state(name)["quantizer.codebook"] for name in ("plain", "no restarts"))
    assert not torch.allclose(with_restarts, without, atol=0.1)


@SEVERAL
def test_in_bf16_processes_stay_together_and_near_one(found, processes) -> None:
    """Rounding to 8 bits moves vectors across the borders between codes, so that codebooks part within a few steps."""
    for row, expected in zip(found[processes].rows("bf16"), found[1].rows("bf16"), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=0.02), row["step"]
    furthest = sum(FIT.lr_at(step) for step in range(STEPS))  # that Adam can move a weight, about
    state, alone = found[processes].state("bf16"), found[1].state("bf16")
    weights = [name for name in alone if not name.startswith("quantizer.") and alone[name].is_floating_point()]
    apart = torch.cat([(state[name] - alone[name]).abs().flatten() for name in weights])
    assert apart.mean() < furthest / 20


@pytest.mark.slow
def test_the_recipe_launched_on_two_processes_equals_one(host, launched, tiny: Path, runs: Path, recipe: Path) -> None:
    """1 x 5 crops = 3 + 2 on two processes: codebook initialisation, restarts, metrics and the final model."""
    # longer than many utterances: part of them is padding
    flags = (
        "--crops.samples",
        "33000",
        "--crops.batch_size",
        "5",
        "--fit.steps",
        "6",
        "--fit.codebook_init_batches",
        "2",
        "--fit.threads",
        "1",
    )
    host.start(recipe, tiny, "--out", runs / "one", *flags).finish()
    process = launched(tiny, "--out", runs / "two", *flags, processes=2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    one, two = (load_file(runs / name / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    facts = json.loads((runs / "two/checkpoints/00000006/state.json").read_text())["facts"]
    assert facts["processes"] == 2 and "training on 2 processes (cpu, float32, 1 thread each)" in output
    assert output.count("step 6: too early") == 1 and "valid conditioning gap" in output
    rows = read_metrics(runs / "two/metrics.jsonl")
    assert [(row["kind"], row["step"]) for row in rows] == [*(("train", 1), ("train", 4), ("train", 6), ("valid", 6))]
    assert (runs / "two/curves.png").read_bytes().startswith(b"\x89PNG")
    model, newest = load_model(runs / "two"), load_model(runs / "two/checkpoints/00000006")
    assert model.fingerprint == newest.fingerprint
    wav = torch.rand(1, 1, 4000, generator=torch.Generator().manual_seed(0)) - 0.5
    assert torch.equal(model.encode(wav)[0], load_model(runs / "one").encode(wav)[0])


@pytest.mark.slow
def test_only_the_first_process_writes(host, tiny: Path, runs: Path, recipe: Path, tmp_path: Path) -> None:
    host.start(__file__, tmp_path, recipe, tiny, "--out", runs / "written", processes=2).finish()
    first, second = ((tmp_path / f"{rank}.txt").read_text().splitlines() for rank in range(2))
    assert {"metrics.jsonl", "state.json", "config.yaml"} <= {Path(line).name for line in first}
    assert second == []


@pytest.mark.parametrize("way", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_what_splits_the_model_is_refused_in_one_line(host, tiny: Path, runs: Path, recipe: Path, way: str) -> None:
    """As requested by `accelerate launch`; the packages that it would need are not installed."""
    out = runs / way
    run = host.start(recipe, tiny, "--out", out, environment={f"ACCELERATE_USE_{way}": "true"})
    assert run.wait() == [1]
    assert re.fullmatch("error: .* is not supported, because every process needs the complete codebook.*\n", run.output)
    assert not out.exists()


def test_more_processes_than_crops_are_refused_in_words(host, tiny: Path, runs: Path, recipe: Path) -> None:
    run = host.start(
        recipe, tiny, "--out", runs / "few", "--crops.batch_size", "2", "--fit.gradient_accumulation_steps", "3"
    )
    assert run.wait() == [1]
    assert run.output.splitlines()[-1].startswith(
        "error: batch_size 2 cannot be divided into 3 slices (processes x acc"
    )
    assert run.output.count("error") == 1


def _note_writes(out: Path, notes: Path) -> None:
    """Each file below `out` that this process opens to write, makes or renames becomes a line of `notes`."""
    lines = notes.open("w", buffering=1)

    def note(event: str, args: tuple[Any, ...]) -> None:
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.truncate")
        if event == "open" and isinstance(args[2], int):
            writes = bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and str(args[0]).startswith(str(out)):
            lines.write(f"{args[0]}\n")

    sys.addaudithook(note)


if __name__ == "__main__":
    folder, argv = Path(sys.argv[1]), sys.argv[2:]
    if argv:
        _note_writes(Path(argv[argv.index("--out") + 1]), folder / f"{os.environ['RANK']}.txt")
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")
    else:
        _work(folder)
