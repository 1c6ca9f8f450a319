"""FSQ: each number is rounded to one of its levels."""

import math

import pytest
import torch
import vector_quantize_pytorch as reference
from torch import Tensor

from vqaudio.nn.fsq import FSQ, FSQConfig

LEVELS = (4, 3, 5)
K, F, D = math.prod(LEVELS), len(LEVELS), 7


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _fsq(levels: tuple[int, ...] = LEVELS, dim: int = F) -> FSQ:
    torch.manual_seed(0)
    return FSQ(FSQConfig(levels=levels, dim=dim))


def _inverse_bound(fsq: FSQ, rounded: Tensor) -> Tensor:
    """(..., F) -> what the bound maps there, a little to the inside of the outermost levels."""
    return torch.atanh(((rounded + fsq.offset) / fsq.scale).clamp(-0.9999, 0.9999)) - fsq.shift


@pytest.mark.parametrize("levels", [LEVELS, (8, 5, 5, 5), (3,), (6, 7)])
def test_every_code_is_one_combination_of_levels_and_can_be_reached(levels) -> None:
    fsq, codes = _fsq(levels, len(levels)), torch.arange(math.prod(levels))
    assert fsq.codebook_size == len(codes)
    rounded = fsq.rounded(codes)
    assert torch.equal(fsq.index(rounded), codes)
    values = fsq.decode(codes[None])[0].T  # (K, F)
    assert len(values.unique(dim=0)) == len(codes)
    for own, count in zip(values.T, levels, strict=True):
        assert len(own.unique()) == count
        assert own.min() == -1 and 0 < own.max() <= 1
    z = _inverse_bound(fsq, rounded)
    assert torch.equal(fsq.encode(z.T[None])[0], codes)


def test_codes_are_mixed_radix_numbers_by_hand() -> None:
    fsq = _fsq()
    assert fsq.index(torch.tensor([-2.0, -1.0, -2.0])) == 0
    assert fsq.index(torch.tensor([1.0, -1.0, -2.0])) == 3
    assert fsq.index(torch.tensor([-2.0, 0.0, -2.0])) == 4
    assert fsq.index(torch.tensor([-2.0, -1.0, -1.0])) == 12
    assert fsq.index(torch.tensor([1.0, 1.0, 2.0])) == K - 1


def test_codes_are_the_nearest_levels_by_brute_force() -> None:
    fsq, z = _fsq(), _noise(2, F, 500) * 2
    bounded = fsq.bound(z.movedim(1, -1)).double()  # (B, S, F)
    distances = (bounded[..., None, :] - fsq.rounded(torch.arange(K)).double()).square().sum(-1)
    assert torch.equal(fsq.encode(z), distances.argmin(-1))
    assert len(fsq.encode(z).unique()) > K / 2


@pytest.mark.parametrize("dim", [F, D])
def test_decoded_codes_are_the_quantized_vectors(dim: int) -> None:
    fsq, z = _fsq(dim=dim).eval(), _noise(3, dim, 5, 2)
    q = fsq(z)
    assert q.z_q.shape == z.shape and q.codes.shape == (3, 5, 2) and q.codes.dtype == torch.int64
    assert torch.equal(fsq.encode(z), q.codes)
    assert torch.equal(fsq.decode(q.codes), q.z_q)
    assert q.loss.item() == 0 and not q.loss.requires_grad


@pytest.mark.parametrize("dim", [F, D])
def test_the_gradient_goes_straight_through_the_rounding(dim: int) -> None:
    fsq, weight = _fsq(dim=dim), _noise(2, dim, 9, seed=1)
    z, leaf = _noise(2, dim, 9).requires_grad_(), _noise(2, dim, 9).requires_grad_()
    (fsq(z).z_q * weight).sum().backward()
    own = [p.grad.clone() for p in fsq.parameters() if p.grad is not None]
    fsq.zero_grad()
    # as if nothing were rounded
    unrounded = fsq.project_out(fsq.bound(fsq.project_in(leaf.movedim(1, -1))) / fsq.half_width)
    (unrounded.movedim(-1, 1) * weight).sum().backward()
    assert z.grad is not None and leaf.grad is not None and z.grad.all()
    torch.testing.assert_close(z.grad, leaf.grad)
    expected = [p.grad for p in fsq.parameters()]
    assert len(own) == (4 if dim == D else 0)
    # the output projection gets the rounded values, the rest the gradient without rounding
    torch.testing.assert_close(own[:2], expected[:2])


def test_the_gradient_by_hand() -> None:
    """One number of 5 levels, 0.3: tanh's derivative, times scale over half width."""
    fsq, z = _fsq((5,), 1), torch.full((1, 1, 1), 0.3, requires_grad=True)
    q = fsq(z)
    assert q.codes.item() == 3 and q.z_q.item() == 0.5  # 2.002 tanh(0.3) = 0.583, rounded 1
    q.z_q.backward()
    assert z.grad is not None
    assert z.grad.item() == pytest.approx(2.002 * (1 - math.tanh(0.3) ** 2) / 2)


@pytest.mark.parametrize(("levels", "dim"), [((8, 5, 5, 5), 4), (LEVELS, F), (LEVELS, D), ((6, 4), 2)])
def test_it_agrees_with_vector_quantize_pytorch(levels, dim) -> None:
    own, theirs = _fsq(levels, dim), reference.FSQ(list(levels), dim=dim, channel_first=True)
    if dim != len(levels):
        theirs.project_in.load_state_dict(own.project_in.state_dict())
        theirs.project_out.load_state_dict(own.project_out.state_dict())
    z, other, weight = _noise(3, dim, 50).requires_grad_(), _noise(3, dim, 50).requires_grad_(), _noise(3, dim, 50)
    q, (their_z_q, their_codes) = own(z), theirs(other)
    assert torch.equal(q.codes, their_codes.long())
    torch.testing.assert_close(q.z_q, their_z_q)
    torch.testing.assert_close(own.decode(q.codes), theirs.indices_to_codes(their_codes))
    (q.z_q * weight).sum().backward()
    (their_z_q * weight).sum().backward()
    torch.testing.assert_close(z.grad, other.grad)


def test_padded_frames_count_nowhere() -> None:
    fsq, short = _fsq(), _fsq()
    z, mask = _noise(2, F, 6), torch.tensor([[True] * 6, [True, False, False, True, False, True]])
    q, expected = fsq(z, mask), short(z.movedim(1, -1)[mask].T[None])
    assert torch.equal(q.codes[mask], expected.codes[0])
    torch.testing.assert_close(q.perplexity, expected.perplexity)
    assert torch.equal(fsq.last_used, short.last_used)
    before = fsq.last_used.clone(), fsq.updates.clone()
    fsq(z, torch.zeros_like(mask))
    assert torch.equal(fsq.last_used, before[0]) and fsq.updates == before[1]


def test_usage_and_perplexity_by_hand() -> None:
    fsq = _fsq()
    z = _inverse_bound(fsq, fsq.rounded(torch.tensor([0, 0, 7, 7]))).T[None]
    q = fsq(z)
    assert q.perplexity.item() == pytest.approx(2)
    assert fsq.usage().item() == pytest.approx(2 / K)
    metrics = fsq.metrics(q)
    assert metrics["dead_codes"].item() == pytest.approx(K - 2)
    assert set(metrics) == {"quantizer_loss", "perplexity", "usage", "dead_codes"}


def test_two_passes_are_one_update() -> None:
    fsq, whole, z = _fsq(), _fsq(), _noise(4, F, 6)
    fsq.forwards_per_step = 2
    fsq(z[:2])
    assert fsq.updates == 0
    fsq(z[2:])
    whole(z)
    assert fsq.updates == 1 and torch.equal(fsq.last_used, whole.last_used)


def test_evaluation_changes_nothing() -> None:
    fsq = _fsq(dim=D).eval()
    before = {name: value.clone() for name, value in fsq.state_dict().items()}
    fsq(_noise(2, D, 5))
    fsq.encode(_noise(2, D, 5))
    assert all(torch.equal(value, before[name]) for name, value in fsq.state_dict().items())


@pytest.mark.parametrize("shape", [(0, D, 5), (2, D, 0), (0, D)])
@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_gives_an_empty_result(shape, training) -> None:
    fsq = _fsq(dim=D).train(training)
    q = fsq(torch.zeros(shape))
    assert q.z_q.shape == shape and q.codes.shape == (shape[0], *shape[2:])
    assert q.perplexity == 1 and fsq.updates == 0
    assert fsq.encode(torch.zeros(shape)).shape == q.codes.shape


def test_wrong_widths_are_refused() -> None:
    for wrong in (torch.zeros(2, D + 1, 5), torch.zeros(D)):
        for method in (_fsq(dim=D), _fsq(dim=D).encode):
            with pytest.raises(ValueError, match=rf"\(B, {D}, \*S\), got"):
                method(wrong)


@pytest.mark.parametrize("dim", [D, len(LEVELS)])
def test_nan_has_a_valid_code_and_stays_in_the_output(dim: int) -> None:
    fsq, z = _fsq(dim=dim), _noise(2, dim, 10)
    z[0, 0, 3] = torch.nan
    q = fsq.train()(z)  # the loss of a diverged model has to be reached
    for codes in (q.codes, fsq.encode(z)):
        assert 0 <= codes.min() <= codes.max() < fsq.codebook_size
    assert q.z_q[0, :, 3].isnan().any() and q.z_q[1].isfinite().all()


def test_encoding_can_be_exported() -> None:
    class Encode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quantizer = _fsq(dim=D).eval()

        def forward(self, z: Tensor) -> Tensor:
            return self.quantizer.encode(z)

    module, z = Encode(), _noise(2, D, 7)
    assert torch.equal(torch.export.export(module, (z,)).module()(z), module(z))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ()}, "one or more numbers, all at least 3, got"),
        ({"levels": (5, 2)}, r"all at least 3, got \(5, 2\)"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"levels": (1000,) * 4}, "a product of at most 16777216, got"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        FSQConfig(**options)
