from typing import get_args

import pytest
import torch
from torch import Tensor

from vqaudio.nn.normalizer import Normalizer, NormalizerKind

D = 5
KINDS = get_args(NormalizerKind)
ALONE = [kind for kind in KINDS if kind != "batch"]  # in training, frames are independent of each other


def _batch(*spatial: int, seed: int = 0) -> Tensor:
    """(3, D, *spatial) with a different mean and variance in each of the D dimensions."""
    shape = (3, D, *spatial)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    each = torch.arange(1.0, D + 1).view(1, D, *(1 for _ in spatial))
    return noise * each * 0.1 + each - 3


def _state(normalizer: Normalizer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in normalizer.state_dict().items()}


def _same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_none_is_the_identity() -> None:
    z = _batch(20)
    assert torch.equal(Normalizer("none", D)(z), z)


def test_affine_brings_the_first_training_batch_to_zero_mean_and_unit_variance() -> None:
    normalizer, z = Normalizer("affine", D), _batch(200)
    out = normalizer(z)
    torch.testing.assert_close(out.mean((0, 2)), torch.zeros(D), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var((0, 2), correction=0), torch.ones(D), rtol=1e-4, atol=0)
    # an affine map for each number, the same for all frames
    slope = 1 / z.std((0, 2), correction=0)
    torch.testing.assert_close(out, (z - z.mean((0, 2))[:, None]) * slope[:, None], rtol=1e-3, atol=1e-4)


def test_affine_is_trainable_and_frame_is_not() -> None:
    for normalizer, trainable in ((Normalizer("affine", D), True), (Normalizer("frame", D), False)):
        normalizer(_batch(20))
        assert [parameter.requires_grad for parameter in normalizer.parameters()] == [trainable] * 2
        z = _batch(20, seed=1).requires_grad_()
        normalizer(z).pow(3).sum().backward()
        assert z.grad is not None and z.grad.any()
        gradients = [parameter.grad for parameter in normalizer.parameters()]
        assert all(gradient is not None and gradient.any() for gradient in gradients) == trainable


def test_frame_gives_every_vector_mean_0_and_variance_1() -> None:
    normalizer = Normalizer("frame", D)
    for seed, training in ((0, True), (1, True), (2, False)):
        normalizer.train(training)
        out = normalizer(_batch(30, seed=seed))
        torch.testing.assert_close(out.mean(1), torch.zeros(3, 30), rtol=0, atol=1e-5)
        torch.testing.assert_close(out.var(1, correction=0), torch.ones(3, 30), rtol=1e-2, atol=0)


def test_unit_gives_every_vector_the_same_norm_and_keeps_its_direction() -> None:
    normalizer = Normalizer("unit", D)
    normalizer(_batch(30))
    z = _batch(30, seed=1)
    mapped = z * normalizer.scale[:, None] + normalizer.shift[:, None]
    out = normalizer(z)
    torch.testing.assert_close(out.norm(dim=1), torch.full((3, 30), D**0.5))
    torch.testing.assert_close(out, D**0.5 * mapped / mapped.norm(dim=1, keepdim=True))


def test_batch_is_batch_normalization() -> None:
    ours, theirs = Normalizer("batch", D), torch.nn.BatchNorm1d(D, affine=False, momentum=0.1)
    for seed in range(4):
        z, again = _batch(50, seed=seed).requires_grad_(), _batch(50, seed=seed).requires_grad_()
        out = ours(z)
        torch.testing.assert_close(out, theirs(again), rtol=1e-4, atol=1e-5)
        out.pow(3).sum().backward()
        theirs(again).pow(3).sum().backward()
        torch.testing.assert_close(z.grad, again.grad, rtol=1e-3, atol=1e-3)


def test_batch_evaluates_by_moving_averages_of_what_it_saw() -> None:
    normalizer, z = Normalizer("batch", D), _batch(200)
    normalizer(z)
    before = _state(normalizer)
    torch.testing.assert_close(before["mean"], z.mean((0, 2)))  # the first batch counts in full
    normalizer(z + 1)
    torch.testing.assert_close(normalizer.mean, before["mean"] + 0.1)
    after = _state(normalizer)
    out = normalizer.eval()(_batch(20))
    assert _same(_state(normalizer), after)
    expected = (_batch(20) - after["mean"][:, None]) / (after["variance"][:, None] + 1e-5).sqrt()
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("kind", ALONE)
def test_only_the_first_training_batch_sets_it(kind) -> None:
    normalizer = Normalizer(kind, D)
    fresh = _state(normalizer)
    normalizer.eval()(_batch(20))
    assert _same(_state(normalizer), fresh)
    normalizer.train()(_batch(20))
    first = _state(normalizer)
    assert kind == "none" or not _same(first, fresh)
    normalizer(_batch(20, seed=1) * 7 + 3)
    normalizer.eval()(_batch(20, seed=2))
    assert _same(_state(normalizer), first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_depends_on_no_other_frame(kind) -> None:
    normalizer = Normalizer(kind, D)
    normalizer(_batch(20))
    for training in (True, False) if kind in ALONE else (False,):
        normalizer.train(training)
        z = _batch(20, seed=1)
        whole = normalizer(z)
        for n in (0, 7, 19):
            torch.testing.assert_close(normalizer(z[1:2, :, n : n + 1]), whole[1:2, :, n : n + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_counts_nowhere(kind) -> None:
    padded, short = Normalizer(kind, D), Normalizer(kind, D)
    z = _batch(20)
    mask = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) < 0.6
    z.movedim(1, -1)[~mask] = 1e4
    out = padded(z, mask).movedim(1, -1)[mask]  # (M, D)
    expected = short(z.movedim(1, -1)[mask])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_dimensions_are_the_same_as_one(kind) -> None:
    flat, image = Normalizer(kind, D), Normalizer(kind, D)
    z = _batch(4, 6)
    torch.testing.assert_close(image(z).flatten(2), flat(z.flatten(2)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_outside(kind, dtype) -> None:
    mixed, exact = Normalizer(kind, D), Normalizer(kind, D)
    z = (_batch(50) * 100).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        out = mixed(z)
    assert out.dtype == torch.float32
    assert torch.equal(out, exact(z.float()))
    assert out.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_batch_gives_no_nan(kind) -> None:
    normalizer = Normalizer(kind, D)
    assert normalizer(torch.full((2, D, 3), 0.25)).isfinite().all()


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"normalizer must be .*, got 'batch-renorm'"):
        Normalizer("batch-renorm", D)  # pyright: ignore[reportArgumentType]


def test_a_first_batch_of_padding_is_refused_and_leaves_it_as_it_was() -> None:
    normalizer = Normalizer("affine", 3).train()
    with pytest.raises(ValueError, match="padding"):
        normalizer(torch.randn(2, 3, 4), torch.zeros(2, 4, dtype=torch.bool))
    assert not normalizer.initialised
    assert torch.equal(normalizer.scale, torch.ones(3))


def test_a_small_variance_beside_a_large_mean_is_not_lost() -> None:
    z = 100 + 0.01 * torch.randn(4, 3, 500, generator=torch.Generator().manual_seed(0))
    out = Normalizer("affine", 3).train()(z)
    assert torch.allclose(out.std((0, 2)), torch.ones(3), atol=0.05)
