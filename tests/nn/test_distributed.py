"""Two processes must equal one with the global batch. They run this file: `test_distributed.py RANK FOLDER`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

import vqaudio.nn.vector_quantizer as quantizer_module
from vqaudio.nn.distributed import broadcast_from_first, draw_rows, draw_rows_on_device, sum_over_processes
from vqaudio.nn.fsq import FSQConfig
from vqaudio.nn.normalizer import Normalizer
from vqaudio.nn.pitch import PitchConfig, PitchTracker
from vqaudio.nn.pitch_quantizer import PitchQuantizer, PitchQuantizerConfig
from vqaudio.nn.quantizer import Quantized, QuantizerConfig, build_quantizer
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig

REPOSITORY = Path(__file__).resolve().parents[2]
D, STEPS = 3, 6
EVEN, UNEVEN, PADDING = ([8, 8], [5, 11], [16, 0])  # valid vectors of each process
PROJECTED: dict[str, QuantizerConfig] = {"fsq": FSQConfig(levels=(3, 3), dim=D)}  # trained: two linear layers
CASES = {
    "even": (EVEN, {}),
    "uneven": (UNEVEN, {}),
    "only padding on the second": (PADDING, {}),
    "gradient codebook": (UNEVEN, {"codebook_update": "gradient"}),
    "no restarts": (UNEVEN, {"restart_threshold": 0.0}),
    "two passes per step": (UNEVEN, {"forwards_per_step": 2}),
    "rotation trick": (UNEVEN, {"rotation_trick": True}),
    "simvq": (UNEVEN, {"codebook_update": "simvq", "restart_threshold": 0.0}),
    "simvq, two passes per step": (
        UNEVEN,
        {"codebook_update": "simvq", "restart_threshold": 0.0, "forwards_per_step": 2},
    ),
    "fsq": (UNEVEN, {"kind": "fsq"}),
    "fsq, only padding on the second": (PADDING, {"kind": "fsq"}),
    "fsq, two passes per step": (UNEVEN, {"kind": "fsq", "forwards_per_step": 2}),
}


def _rows(step: int) -> Tensor:
    """The vectors of the global batch (16, D); they drift, so that codes become unused."""
    noise = torch.randn(16, D, generator=torch.Generator().manual_seed(step))
    return noise + 1.5 * step


def _part(step: int, sizes: list[int], rank: int) -> tuple[Tensor, Tensor]:
    """What one process sees: (1, D, M) and mask (1, M). Without valid vectors it has some padding."""
    rows = _rows(step).split(sizes)[rank]
    valid = max(len(rows), 2)
    z = torch.full((1, D, valid + rank), 1e3)  # the second process has padding too
    z[0, :, : len(rows)] = rows.T
    return z, (torch.arange(z.shape[2]) < len(rows))[None]


def _quantizer(options: dict, rank: int) -> Any:  # a Quantizer and an nn.Module
    options = {"ema_decay": 0.5, "restart_threshold": 0.5, **options}
    forwards_per_step = options.pop("forwards_per_step", 1)
    kind = options.pop("kind", "vq")
    # data parallelism gives all processes the first one's parameters, but they start with different random codebooks
    torch.manual_seed(0 if kind in PROJECTED else rank)
    cfg = PROJECTED.get(kind) or VectorQuantizerConfig(codebook_size=8, dim=D, **options)
    quantizer = build_quantizer(cfg)
    quantizer.forwards_per_step = forwards_per_step
    return quantizer


def _state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _gradients(quantizer: Any, z: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Of a loss that is a sum over valid vectors: summed over processes, those of the global batch."""
    z.requires_grad_()
    q = quantizer(z, mask)
    rows = q.z_q.movedim(1, -1)[mask]
    (q.loss * len(rows) + rows.pow(3).sum()).backward()
    assert z.grad is not None
    own = {name: p.grad for name, p in quantizer.named_parameters() if p.grad is not None}
    return {"z": z.grad.movedim(1, -1)[mask], **{name: sum_over_processes(value) for name, value in own.items()}}


def _loss(z: Tensor, mask: Tensor) -> Tensor:
    """(1, D, M), (1, M) -> (): of the valid vectors, summed."""
    return z.movedim(1, -1)[mask].pow(3).sum()


def _pitch_quantizer(rank: int) -> PitchQuantizer:
    """Fitted to what the first process has; the second one has nothing."""
    torch.manual_seed(rank)
    tracker = PitchTracker(PitchConfig(win_length=600), 160, 16000)
    quantizer = PitchQuantizer(PitchQuantizerConfig(frames=2, codebook_size=8), tracker)
    t = torch.arange(16000) / 16000
    quantizer.fit([torch.sin(2 * torch.pi * hertz * t) * (t % 0.3 < 0.2) for hertz in (100, 200)] if rank != 1 else [])
    return quantizer


def _work(rank: int, folder: Path) -> None:
    """All cases on one of two processes; the results are written to a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    found = {}
    for name, (sizes, options) in CASES.items():
        quantizer = _quantizer(options, rank)
        results: list[Quantized] = [quantizer(*_part(step, sizes, rank)) for step in range(STEPS)]
        found[name] = {
            "state": _state(quantizer),
            "codes": [q.codes[_part(step, sizes, rank)[1]] for step, q in enumerate(results)],
            "perplexity": [q.perplexity for q in results],
        }
        before = _state(quantizer)
        if rank == 0:  # evaluation is not collective: one process may evaluate alone
            quantizer.eval()(*_part(0, sizes, rank))
        found[name]["after evaluation"] = all(torch.equal(before[k], v) for k, v in _state(quantizer).items())
        quantizer = _quantizer(options, rank)
        quantizer.initialise([_rows(0).split(sizes)[rank]])
        found[name]["gradients"] = _gradients(quantizer, *_part(1, sizes, rank))
    normalizer = Normalizer("affine", D)
    normalizer(*_part(0, UNEVEN, rank))
    found["normalizer"] = _state(normalizer)
    batch, (z, mask) = Normalizer("batch", D), _part(0, UNEVEN, rank)
    z.requires_grad_()
    _loss(batch(z, mask), mask).backward()
    assert z.grad is not None
    found["batch"] = {**_state(batch), "gradient": z.grad.movedim(1, -1)[mask]}
    found["sum"] = sum_over_processes(torch.tensor([1.0 + rank, 10.0]))
    found["first"] = broadcast_from_first(torch.tensor([7.0 + rank]))
    found["drawn"] = draw_rows(_rows(0).split(UNEVEN)[rank], 20, torch.Generator().manual_seed(3))
    found["drawn on the device"] = {}
    for name, sizes in (("uneven", UNEVEN), ("padding", PADDING)):
        z, mask = _part(0, sizes, rank)
        found["drawn on the device"][name] = [
            draw_rows_on_device(z[0].T, mask[0], count, torch.tensor(3)) for count in (5, 20)
        ]
    found["pitch"] = _state(_pitch_quantizer(rank))
    if rank == 1:  # as if its arithmetic were another
        quantizer_module.kmeans = lambda rows, k, *_: rows.new_full((k, rows.shape[1]), 99.0)
    quantizer = _quantizer({}, rank)
    quantizer.initialise([_rows(0).split(UNEVEN)[rank]])
    found["another k-means"] = _state(quantizer)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in running:
            _, error = process.communicate(timeout=120)
            assert process.returncode == 0, error
    finally:
        for process in running:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_hold_the_same_codebook_to_the_bit(processes, name) -> None:
    first, second = (found[name]["state"] for found in processes)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one_on_the_joint_batch(processes, name) -> None:
    sizes, options = CASES[name]
    alone = _quantizer(options, rank=0 if "simvq" in name else 2)  # of a codebook that stays, the first process's
    passes, alone.forwards_per_step = alone.forwards_per_step, 1
    alone.initialise([_rows(0)])
    for first in range(0, STEPS, passes):
        steps = range(first, first + passes)
        parts = [_rows(step).split(sizes)[rank] for rank in range(2) for step in steps]
        q = alone(torch.cat(parts).T[None])
        found_codes = [found[name]["codes"][step] for found in processes for step in steps]
        assert torch.equal(torch.cat(found_codes), q.codes[0])
        if passes == 1:
            for found in processes:
                torch.testing.assert_close(found[name]["perplexity"][first], q.perplexity)
    state, joint = processes[0][name]["state"], _state(alone)
    for key in joint:
        torch.testing.assert_close(state[key], joint[key], rtol=1e-5, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_gradients_of_one(processes, name) -> None:
    _, options = CASES[name]
    alone = _quantizer(options, rank=0 if "simvq" in name else 2)
    alone.initialise([_rows(0)])
    expected = _gradients(alone, _rows(1).T[None].clone(), torch.ones(1, 16, dtype=torch.bool))
    together = torch.cat([found[name]["gradients"].pop("z") for found in processes])
    torch.testing.assert_close(together, expected.pop("z"), rtol=1e-4, atol=1e-4)
    trained = {"gradient codebook": 1, "simvq": 1, "simvq, two passes per step": 1}
    assert len(expected) == (4 if options.get("kind") in PROJECTED else trained.get(name, 0))
    for found in processes:
        assert found[name]["gradients"].keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[name]["gradients"][key], value, rtol=1e-4, atol=1e-4)


def test_the_cases_do_restart_codes(processes) -> None:
    with_restarts, without = (processes[0][name]["state"]["codebook"] for name in ("uneven", "no restarts"))
    assert not torch.allclose(with_restarts, without, atol=0.1)


def test_one_process_can_evaluate_alone(processes) -> None:
    assert all(found[name]["after evaluation"] for found in processes for name in CASES)


def test_the_normalizer_is_set_by_the_joint_batch(processes) -> None:
    alone = Normalizer("affine", D)
    alone(_rows(0).T[None])
    for found in processes:
        for key, value in _state(alone).items():
            torch.testing.assert_close(found["normalizer"][key], value)
    assert all(torch.equal(processes[0]["normalizer"][key], processes[1]["normalizer"][key]) for key in _state(alone))


def test_batch_normalization_and_its_gradient_are_those_of_the_joint_batch(processes) -> None:
    alone, z = Normalizer("batch", D), _rows(0).T[None].requires_grad_()
    _loss(alone(z), torch.ones(1, 16, dtype=torch.bool)).backward()
    assert z.grad is not None
    for found in processes:
        for key, value in _state(alone).items():
            torch.testing.assert_close(found["batch"][key], value)
    together = torch.cat([found["batch"]["gradient"] for found in processes])
    torch.testing.assert_close(together, z.grad[0].T, rtol=1e-4, atol=1e-4)


def test_the_first_process_computes_the_first_codebook_for_all(processes) -> None:
    alone = _quantizer({}, rank=2)
    alone.initialise([_rows(0)])
    for found in processes:
        for key, value in _state(alone).items():
            torch.testing.assert_close(found["another k-means"][key], value)


def test_pitch_tokens_are_fitted_to_what_any_process_has(processes) -> None:
    alone = _state(_pitch_quantizer(rank=2))
    for found in processes:
        for key, value in alone.items():
            assert torch.equal(found["pitch"][key], value)


def test_the_collective_functions(processes) -> None:
    alone = draw_rows(_rows(0), 20, torch.Generator().manual_seed(3))
    assert len(alone[:16].unique(dim=0)) == 16  # no row twice while there are enough
    for found in processes:
        assert found["sum"].tolist() == [3, 20]
        assert found["first"].tolist() == [7]
        assert torch.equal(found["drawn"], alone)


def test_rows_drawn_on_the_device_are_those_of_one_process(processes) -> None:
    everything = torch.ones(16, dtype=torch.bool)
    for i, count in enumerate((5, 20)):
        alone = draw_rows_on_device(_rows(0), everything, count, torch.tensor(3))
        assert len(alone[:16].unique(dim=0)) == min(count, 16)
        for found in processes:
            for drawn in found["drawn on the device"].values():
                assert torch.equal(drawn[i], alone)


def test_on_one_process_they_change_nothing() -> None:
    x = torch.tensor([1.0, 2.0])
    assert torch.equal(sum_over_processes(x), x)
    assert torch.equal(broadcast_from_first(x), x)
    with pytest.raises(ValueError, match="no rows to draw from"):
        draw_rows(torch.zeros(0, 3), 2, torch.Generator())


if __name__ == "__main__":
    _work(int(sys.argv[1]), Path(sys.argv[2]))
