"""The codebook update as tensor operations: equal to a plain one with conditions, and part of a compiled step.

Letters: M vectors, K codes, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vqaudio.nn.vector_quantizer as module
from vqaudio.nn.distributed import draw_rows, draw_rows_on_device
from vqaudio.nn.vector_quantizer import VectorQuantizer, VectorQuantizerConfig

K, D = 8, 4


class PlainQuantizer(VectorQuantizer):
    """The update as one would write it down, with conditions on values: the reference."""

    def _update(self) -> None:
        rows = torch.cat([each.rows[each.valid] for each in self._forwards])
        counts = torch.stack([each.counts for each in self._forwards]).sum(0)
        sums = torch.stack([each.sums for each in self._forwards]).sum(0)
        self._forwards.clear()
        if not counts.sum():
            return
        with torch.no_grad():
            self.updates += 1
            self.last_used[counts > 0] = self.updates
            if self.codebook_map is not None:
                return
            decay = min(self.cfg.ema_decay, float((1 + self.updates) / (10 + self.updates)))
            self.ema_count.lerp_(counts, 1 - decay)
            self.ema_sum.lerp_(sums, 1 - decay)
            if self.cfg.codebook_update == "ema":
                alive = self.ema_count > 1e-6
                self.codebook[alive] = self.ema_sum[alive] / self.ema_count[alive, None]
            if self.cfg.restart_threshold:
                mean_count = self.ema_count.mean()
                dead = self.ema_count < self.cfg.restart_threshold * mean_count
                fresh = draw_rows(rows, K, self._generator())
                self.codebook[dead] = fresh[dead]
                self.ema_count[dead] = mean_count
                self.ema_sum[dead] = fresh[dead] * mean_count


def _batch(step: int, padded: bool) -> tuple[Tensor, Tensor | None]:
    """(2, D, 30), mask (2, 30): vectors that drift, so that codes become unused; every fifth batch is padding only."""
    generator = torch.Generator().manual_seed(step)
    z = torch.randn(2, D, 30, generator=generator) + 0.3 * step
    mask = (torch.rand(2, 30, generator=generator) < 0.6) & (step % 5 != 3)
    return z, mask if padded else None


def _optimized(quantizer: VectorQuantizer, lr: float = 0.1) -> torch.optim.Optimizer | None:
    parameters = list(quantizer.parameters())
    return torch.optim.SGD(parameters, lr) if parameters else None


def _trained(quantizer: VectorQuantizer, padded: bool, steps: int = 40) -> list[Tensor]:
    """Trains it -> all outputs and gradients."""
    found: list[Tensor] = []
    optimizer = _optimized(quantizer)
    for step in range(steps):
        z, mask = _batch(step, padded)
        z.requires_grad_()
        q = quantizer(z, mask)
        (q.loss + q.z_q.pow(2).mean()).backward()
        assert z.grad is not None
        found += [q.z_q.detach(), q.codes, q.loss.detach(), q.perplexity, z.grad, *quantizer.metrics(q).values()]
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()
    return found


def _assert_equal(left: VectorQuantizer, right: VectorQuantizer) -> None:
    for (name, value), other in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.5, "restart_threshold": 0.5},
        {"codebook_update": "gradient", "restart_threshold": 0.5},
        {"codebook_update": "simvq", "restart_threshold": 0.0},
        {"unit_norm": True, "restart_threshold": 0.5},
        {"rotation_trick": True, "restart_threshold": 0.0},
        {"ema_decay": 0.0, "restart_threshold": 0.9},
    ],
)
@pytest.mark.parametrize("forwards", [1, 3])
def test_the_update_equals_the_plain_one_to_the_bit(options: dict[str, Any], padded: bool, forwards: int) -> None:
    cfg = VectorQuantizerConfig(codebook_size=K, dim=D, **options)
    torch.manual_seed(0)
    quantizer, plain = VectorQuantizer(cfg), PlainQuantizer(cfg)
    plain.load_state_dict(quantizer.state_dict())
    quantizer.forwards_per_step = plain.forwards_per_step = forwards
    found, expected = _trained(quantizer, padded), _trained(plain, padded)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    _assert_equal(quantizer, plain)
    assert quantizer.updates > 5


def test_restarts_happen_in_these_tests() -> None:
    """Otherwise the equality above would say nothing about them."""
    cfg = VectorQuantizerConfig(codebook_size=K, dim=D, ema_decay=0.5, restart_threshold=0.5)
    never = VectorQuantizerConfig(codebook_size=K, dim=D, ema_decay=0.5, restart_threshold=0.0)
    torch.manual_seed(0)
    one, other = VectorQuantizer(cfg), VectorQuantizer(never)
    other.load_state_dict(one.state_dict())
    _trained(one, padded=True)
    _trained(other, padded=True)
    assert not torch.equal(one.codebook, other.codebook)


# --- rows drawn on the device ---


def _drawn(valid: Tensor, count: int, seed: int) -> Tensor:
    """(count,) the numbers of the drawn rows, counted from 1."""
    rows = torch.arange(1.0, len(valid) + 1)[:, None]
    return draw_rows_on_device(rows, valid, count, torch.tensor(seed))[:, 0].long()


def test_rows_are_drawn_without_replacement_from_the_valid_ones() -> None:
    valid = torch.rand(100, generator=torch.Generator().manual_seed(0)) < 0.5
    for seed in range(20):
        drawn = _drawn(valid, 30, seed)
        assert len(drawn.unique()) == 30
        assert valid[drawn - 1].all()


def test_too_few_rows_are_repeated_in_turn() -> None:
    valid = torch.zeros(50, dtype=torch.bool)
    valid[[3, 20, 41]] = True
    drawn = _drawn(valid, 8, 5)
    assert sorted(drawn[:3].tolist()) == [4, 21, 42]
    assert torch.equal(drawn, drawn[torch.arange(8) % 3])
    assert torch.equal(_drawn(valid[:2], 4, 5), torch.zeros(4, dtype=torch.long))  # none is valid


def test_draws_depend_on_the_seed_and_not_on_where_the_padding_is() -> None:
    everything = torch.ones(40, dtype=torch.bool)
    assert not torch.equal(_drawn(everything, 10, 1), _drawn(everything, 10, 2))
    assert torch.equal(_drawn(everything, 10, 1), _drawn(everything, 10, 1))
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    spread, valid = torch.full((80, 3), 9.0), torch.arange(80) % 2 == 1
    spread[valid] = rows
    seed = torch.tensor(7)
    packed = draw_rows_on_device(rows, everything, 10, seed)
    assert torch.equal(draw_rows_on_device(spread, valid, 10, seed), packed)


def test_every_row_is_drawn_equally_often() -> None:
    """40 rows, 10 of them in each of 2,000 draws: 500 expected, standard deviation 19."""
    everything = torch.ones(40, dtype=torch.bool)
    counts = torch.cat([_drawn(everything, 10, seed) for seed in range(2000)]).bincount(minlength=41)[1:]
    assert (counts - 500).abs().max() < 5 * 19
    first = torch.stack([_drawn(everything, 1, seed) for seed in range(2000)]).flatten().bincount(minlength=41)[1:]
    assert (first - 50).abs().max() < 5 * 7


# --- compiled ---


@contextmanager
def _rows_drawn_on_the_device() -> Iterator[None]:
    before = VectorQuantizer._drawn
    VectorQuantizer._drawn = lambda self, rows, valid: draw_rows_on_device(  # pyright: ignore[reportAttributeAccessIssue]
        rows, valid, self.cfg.codebook_size, self.updates + 1
    )
    try:
        yield
    finally:
        VectorQuantizer._drawn = before


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("eager", {"unit_norm": True}),
        ("aot_eager", {}),
        ("aot_eager", {"codebook_update": "gradient"}),
        # not a gradient codebook: inductor of torch 2.11 reads the parameter again after it was written
        pytest.param("inductor", {}, marks=pytest.mark.long),
    ],
)
def test_a_training_step_compiles_as_one_graph(backend: str, options: dict[str, Any], monkeypatch) -> None:
    cfg = VectorQuantizerConfig(codebook_size=K, dim=D, ema_decay=0.5, restart_threshold=0.5, **options)
    torch.manual_seed(0)
    eager = VectorQuantizer(cfg)
    eager.initialise([_batch(0, False)[0].mT.reshape(-1, D)])
    compiled = VectorQuantizer(cfg)
    compiled.load_state_dict(eager.state_dict())
    assert compiled.initialised

    def step(quantizer: nn.Module, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        q = quantizer(z, mask)
        return q.loss + q.z_q.pow(2).mean(), q.codes, q.perplexity

    torch._dynamo.reset()
    monkeypatch.setattr(module, "kernels", lambda: None)  # a graph has PyTorch's search for the nearest code
    graph = torch.compile(step, backend=backend, fullgraph=True)
    with _rows_drawn_on_the_device():
        for number in range(12):
            z, mask = _batch(number, True)
            ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
            found, expected = graph(compiled, ours, mask), step(eager, theirs, mask)
            found[0].backward()
            expected[0].backward()
            assert ours.grad is not None and theirs.grad is not None
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(ours.grad, theirs.grad)
            for name, value in compiled.state_dict().items():
                torch.testing.assert_close(value, eager.state_dict()[name], msg=lambda m, name=name: f"{name}: {m}")
    assert compiled.updates > 5
