"""The rotation trick and SimVQ, and that each kind of quantizer keeps the protocol."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from vector_quantize_pytorch import SimVQ, VectorQuantize

from vqaudio.nn.fsq import FSQConfig
from vqaudio.nn.quantizer import Quantizer, QuantizerConfig, build_quantizer
from vqaudio.nn.vector_quantizer import VectorQuantizer, VectorQuantizerConfig, nearest, rotated

K, D = 8, 4
AT_ONCE = {"commitment_warmup_steps": 0, "commitment_weight": 0.25}
ROTATED = {"rotation_trick": True, "restart_threshold": 0.0, **AT_ONCE}
SIMVQ = {"codebook_update": "simvq", "restart_threshold": 0.0, **AT_ONCE}
KINDS: dict[str, QuantizerConfig] = {
    "vq": VectorQuantizerConfig(codebook_size=K, dim=D),
    "gradient": VectorQuantizerConfig(codebook_size=K, dim=D, codebook_update="gradient"),
    "rotation": VectorQuantizerConfig(codebook_size=K, dim=D, rotation_trick=True),
    "simvq": VectorQuantizerConfig(codebook_size=K, dim=D, codebook_update="simvq", restart_threshold=0),
    "fsq": FSQConfig(levels=(3, 4), dim=D),
}


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _quantizer(**options: Any) -> VectorQuantizer:
    """Initialised, in training mode."""
    torch.manual_seed(5)
    quantizer = VectorQuantizer(VectorQuantizerConfig(codebook_size=K, dim=D, kmeans_iterations=0, **options))
    quantizer.initialise([_noise(K, D, seed=9)])
    return quantizer


def _gradient(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


# --- every kind ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_never_enters(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    quantizer, z = build_quantizer(KINDS[kind]), _noise(4, D, 100)
    quantizer.initialise([quantizer.valid_rows(z)])
    assert isinstance(quantizer, nn.Module)
    quantizer.eval()
    exact = quantizer(z)
    with torch.autocast("cpu", dtype=dtype):
        q = quantizer(z)
        assert torch.equal(quantizer.encode(z), exact.codes)
        decoded = quantizer.decode(q.codes)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, exact.z_q, atol=1e-6, rtol=0)  # the output adds z and subtracts it again
    for got, wanted in zip(q, exact, strict=True):
        assert got.dtype == wanted.dtype and torch.equal(got, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_keeps_the_protocol(kind: str) -> None:
    quantizer, z = build_quantizer(KINDS[kind]), _noise(3, D, 10)
    assert isinstance(quantizer, Quantizer) and isinstance(quantizer, nn.Module)
    assert quantizer.codebook_size == KINDS[kind].codebook_size
    assert (quantizer.dim, quantizer.device) == (D, torch.device("cpu"))
    rows = quantizer.valid_rows(z, torch.arange(10).expand(3, 10) < 4)
    assert torch.equal(rows, z[:, :, :4].movedim(1, -1).flatten(0, 1))
    quantizer.initialise([rows])
    assert quantizer.initialised
    q = quantizer.eval()(z)
    assert torch.equal(q.codes, quantizer.encode(z))
    torch.testing.assert_close(quantizer.decode(q.codes), q.z_q)
    metrics = quantizer.metrics(q)
    assert metrics.keys() >= {"quantizer_loss", "perplexity", "usage", "dead_codes"}
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    names = quantizer.code_weights()
    assert names or not [name for name, _ in quantizer.named_parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_of_the_codes_are_those_that_change_them(kind: str) -> None:
    """A change of any other floating-point weight leaves all codes as they are."""
    quantizer, z = build_quantizer(KINDS[kind]), _noise(30, D, 10)
    assert isinstance(quantizer, nn.Module)
    quantizer.initialise([quantizer.valid_rows(z)])
    quantizer.eval()
    codes, deciding = quantizer.encode(z), {w.data_ptr() for w in quantizer.code_weights().values()}
    for name, weight in quantizer.state_dict().items():
        if weight.is_floating_point():
            weight.data.mul_(-3)  # the state's own memory
            assert torch.equal(quantizer.encode(z), codes) == (weight.data_ptr() not in deciding), name
            weight.data.div_(-3)


# --- the rotation trick ---


def test_the_map_of_the_gradient_is_a_rotation_to_the_code_and_a_factor() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        z, code = _noise(1, D, 1), 3 * _noise(1, D, 1, seed=1)
        jacobian = torch.autograd.functional.jacobian(lambda x: rotated(x, code)[0, :, 0], z)
        assert isinstance(jacobian, Tensor)
        matrix, e, q = jacobian[:, 0, :, 0], z[0, :, 0], code[0, :, 0]
        factor = q.norm() / e.norm()
        rotation = matrix / factor
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(D))
        assert torch.linalg.det(rotation).item() == pytest.approx(1)
        torch.testing.assert_close(matrix @ e, q)
        plane, _ = torch.linalg.qr(torch.stack([e, q], dim=1), mode="complete")
        for across in plane.T[2:]:  # directions outside of the plane of both keep theirs
            torch.testing.assert_close(rotation @ across, across)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_rotated_gradient_by_hand() -> None:
    """In two dimensions: a vector of length 2 along x, its code of length 3 at 90 degrees."""
    z = torch.tensor([2.0, 0.0]).view(1, 2, 1).requires_grad_()
    code = torch.tensor([0.0, 3.0]).view(1, 2, 1).requires_grad_()
    out = rotated(z, code)
    assert torch.equal(out, code)
    (out * torch.tensor([5.0, 7.0]).view(1, 2, 1)).sum().backward()
    # 1.5 times the gradient, turned back by 90 degrees: (x, y) -> (y, -x)
    torch.testing.assert_close(_gradient(z).flatten(), torch.tensor([10.5, -7.5]))
    assert code.grad is None


def test_vectors_without_a_direction_take_the_gradient_straight_through() -> None:
    z = torch.zeros(1, D, 2)
    z[0, :, 1] = 1
    z.requires_grad_()
    code = torch.ones(1, D, 2)
    code[0, :, 1] = 0
    (rotated(z, code) * 2).sum().backward()
    assert torch.equal(_gradient(z), torch.full((1, D, 2), 2.0))
    opposite = torch.ones(1, D, 1).requires_grad_()
    rotated(opposite, -opposite.detach()).sum().backward()
    assert _gradient(opposite).isfinite().all()


def test_the_rotation_trick_changes_the_gradient_alone() -> None:
    plain, turned, z = _quantizer(**AT_ONCE), _quantizer(rotation_trick=True, **AT_ONCE), _noise(3, D, 6)
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    q, r = plain(a), turned(b)
    assert torch.equal(q.codes, r.codes) and torch.equal(q.loss, r.loss)
    torch.testing.assert_close(q.z_q, r.z_q)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, turned.state_dict()[key])
    q.z_q.pow(2).sum().backward()
    r.z_q.pow(2).sum().backward()
    assert not torch.allclose(_gradient(a), _gradient(b))


@pytest.mark.parametrize("codebook_update", ["ema", "gradient"])
def test_the_rotation_trick_agrees_with_vector_quantize_pytorch(codebook_update: str) -> None:
    own = _quantizer(codebook_update=codebook_update, **ROTATED)
    theirs = VectorQuantize(dim=D, codebook_size=K, rotation_trick=True, commitment_weight=0.25)
    theirs._codebook.embed.data.copy_(own.codebook.detach()[None])  # pyright: ignore
    z, weight = _noise(3, D, 20), _noise(3, D, 20, seed=2)
    a, b = z.clone().requires_grad_(), z.mT.clone().requires_grad_()
    q, (their_z_q, their_codes, their_loss) = own(a), theirs(b, freeze_codebook=True)
    assert torch.equal(q.codes, their_codes)
    torch.testing.assert_close(q.z_q, their_z_q.mT)
    (q.z_q * weight).sum().backward()
    (their_z_q * weight.mT).sum().backward()
    torch.testing.assert_close(_gradient(a), _gradient(b).mT)
    if codebook_update == "ema":
        torch.testing.assert_close(q.loss, their_loss)


# --- SimVQ ---


def test_codes_of_simvq_are_the_frozen_codebook_behind_one_linear_map() -> None:
    quantizer = _quantizer(**SIMVQ)
    assert [name for name, _ in quantizer.named_parameters()] == ["codebook_map"]
    with torch.no_grad():
        quantizer.codebook_map.copy_(_noise(D, D, seed=3))  # pyright: ignore
    z, codes = _noise(2, D, 30), quantizer.codebook @ _noise(D, D, seed=3)
    expected = nearest(z.movedim(1, -1).reshape(-1, D), codes)
    assert torch.equal(quantizer.encode(z).flatten(), expected)
    torch.testing.assert_close(quantizer.decode(expected[None])[0].T, codes[expected])


def test_simvq_is_trained_by_the_codebook_loss_alone_by_hand() -> None:
    quantizer, z = _quantizer(**SIMVQ), _noise(2, D, 5).requires_grad_()
    mask = torch.tensor([[True] * 5, [True, True, False, False, True]])
    assert quantizer.codebook_map is not None
    frozen, count = quantizer.codebook.clone(), 8 * D
    with torch.no_grad():
        codes = quantizer.encode(z)
        error = (z - quantizer.decode(codes)) * mask[:, None]
    q = quantizer(z, mask)
    torch.testing.assert_close(q.loss, 1.25 * error.square().sum() / count)
    (q.loss + 5 * q.z_q.sum()).backward()
    torch.testing.assert_close(_gradient(z), 2 * 0.25 * error / count + 5)
    rows = error.movedim(1, -1).reshape(-1, D)
    expected = frozen[codes.flatten()].T @ (-2 * rows / count)  # the reconstruction sends nothing to the map
    torch.testing.assert_close(_gradient(quantizer.codebook_map), expected)
    before = quantizer.vectors.detach().clone()
    torch.optim.SGD(quantizer.parameters(), lr=0.1).step()
    assert torch.equal(quantizer.codebook, frozen)
    unused = [k for k in range(K) if k not in codes[mask]]
    assert unused  # codes that were not chosen move too
    assert not torch.isclose(quantizer.vectors[unused], before[unused]).all(1).any()


@pytest.mark.parametrize("rotation", [False, True])
def test_simvq_agrees_with_vector_quantize_pytorch(rotation: bool) -> None:
    own = _quantizer(rotation_trick=rotation, **SIMVQ)
    theirs = SimVQ(dim=D, codebook_size=K, channel_first=True, rotation_trick=rotation)
    assert own.codebook_map is not None
    with torch.no_grad():
        own.codebook_map.copy_(_noise(D, D, seed=3))
        theirs.frozen_codebook.copy_(own.codebook)  # pyright: ignore
        theirs.code_transform.weight.copy_(own.codebook_map.T)  # pyright: ignore
    z, weight = _noise(3, D, 20), _noise(3, D, 20, seed=2)
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    q, (their_z_q, their_codes, their_loss) = own(a), theirs(b)
    assert torch.equal(q.codes, their_codes)
    torch.testing.assert_close(q.z_q, their_z_q)
    torch.testing.assert_close(q.loss, their_loss)
    (q.loss + (q.z_q * weight).sum()).backward()
    (their_loss + (their_z_q * weight).sum()).backward()
    torch.testing.assert_close(_gradient(own.codebook_map), _gradient(theirs.code_transform.weight).T)  # pyright: ignore
    torch.testing.assert_close(_gradient(a), _gradient(b))


def test_simvq_is_initialised_at_the_scale_of_the_vectors() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(
        VectorQuantizerConfig(codebook_size=512, dim=16, codebook_update="simvq", restart_threshold=0)
    )
    frozen = quantizer.codebook.clone()
    quantizer.initialise([_noise(400, 16) * 30, _noise(300, 16, seed=1) * 30])
    assert torch.equal(quantizer.codebook, frozen)
    assert quantizer.vectors.std().item() == pytest.approx(30, rel=0.05)


def test_simvq_follows_vectors_that_drift() -> None:
    """Its purpose: no code dies when all vectors move away."""
    quantizer = VectorQuantizer(
        VectorQuantizerConfig(codebook_size=32, dim=2, codebook_update="simvq", restart_threshold=0, **AT_ONCE)
    )
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.03)
    losses = []
    for step in range(300):
        rows = _noise(256, 2, seed=step) @ torch.tensor([[3.0, 1.0], [0.0, 0.2]])
        q = quantizer(rows.T[None])
        optimizer.zero_grad()
        q.loss.backward()
        optimizer.step()
        losses.append(q.loss.item())
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    assert quantizer.usage() > 0.9


@pytest.mark.parametrize("options", [{"restart_threshold": 0.1}, {}])
def test_simvq_cannot_restart_single_codes(options) -> None:
    with pytest.raises(ValueError, match=r"can restart none of them; set restart_threshold to 0, got 0.1"):
        VectorQuantizerConfig(codebook_update="simvq", **options)


def test_perplexity_of_the_kinds_is_that_of_their_codes() -> None:
    for cfg in KINDS.values():
        quantizer = build_quantizer(cfg)
        q = quantizer(_noise(4, D, 50))
        shares = functional.one_hot(q.codes.flatten(), cfg.codebook_size).double().mean(0)
        assert q.perplexity.item() == pytest.approx(math.exp(-torch.xlogy(shares, shares).sum().item()), rel=1e-5)
