"""Gates in training: all compiled variants that this machine runs against the formula in float64."""

import pytest
import torch
from torch import Tensor

from vqaudio.kernels import library
from vqaudio.kernels.gate import fits, gate_backward, gate_forward
from vqaudio.kernels.library import VARIANTS, Kernels

ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2.0**-8}


@pytest.fixture(scope="module", params=VARIANTS)
def compiled(request: pytest.FixtureRequest) -> Kernels:
    """One variant after the other."""
    if request.param not in library.runnable():
        pytest.skip(f"the variant {request.param} was not compiled, or this machine does not run it")
    return library.load(request.param)


def _rows(frames: int, hop: int, channels: int, dtype: torch.dtype, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """y (N * hop, 2R), frames (N, 2R), dz (N * hop, R)."""
    noise = torch.Generator().manual_seed(frames)
    y = spread * torch.randn(frames * hop, 2 * channels, generator=noise)
    by_frame = torch.randn(frames, 2 * channels, generator=noise)
    return y.to(dtype), by_frame.to(dtype), torch.randn(frames * hop, channels, generator=noise).to(dtype)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("frames", "hop", "channels"), [(1, 1, 16), (3, 5, 48), (1, 700, 32), (128, 64, 64)])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_equals_the_formula_and_its_gradient(
    compiled: Kernels, dtype: torch.dtype, frames: int, hop: int, channels: int, spread: float
) -> None:
    y, by_frame, dz = _rows(frames, hop, channels, dtype, spread)
    given, z, dy = y.clone(), torch.empty_like(dz), torch.empty_like(y)
    gate_forward(compiled, y, by_frame, z, threads=3)
    tolerance = ROUNDING[dtype]
    torch.testing.assert_close(
        y.double(), given.double() + by_frame.double().repeat_interleave(hop, 0), rtol=tolerance, atol=tolerance
    )
    exact = y.double().requires_grad_()
    signal, switch = exact.chunk(2, dim=1)
    expected = torch.tanh(signal) * torch.sigmoid(switch)
    # the gate was given its inputs before they were rounded
    torch.testing.assert_close(z.double(), expected, rtol=0, atol=(2 + spread) * tolerance)
    expected.backward(dz.double())
    assert exact.grad is not None
    again = torch.empty_like(z)
    sums = gate_backward(compiled, y, dz, frames, dy, again, threads=3)
    torch.testing.assert_close(dy.double(), exact.grad, rtol=2 * tolerance, atol=tolerance)
    torch.testing.assert_close(again.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    by_sum = exact.grad.view(frames, hop, -1).sum(1)
    torch.testing.assert_close(sums.double(), by_sum, rtol=1e-4, atol=1e-5 * hop)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_threads_do_not_change_a_bit(compiled: Kernels, dtype: torch.dtype) -> None:
    y, frames, dz = _rows(200, 64, 64, dtype, 1.0)
    seen = []
    for threads in (1, 2, 5):
        rows, z, dy = y.clone(), torch.empty_like(dz), torch.empty_like(y)
        gate_forward(compiled, rows, frames, z, threads)
        sums = gate_backward(compiled, rows, dz, len(frames), dy, torch.empty_like(z), threads)
        seen.append((rows, z, dy, sums))
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("dtype", ROUNDING)
def test_what_is_no_number_stays_so(compiled: Kernels, dtype: torch.dtype) -> None:
    y, frames, dz = _rows(2, 4, 16, dtype, 1.0)
    y[3, 5] = y[6, 20] = float("nan")
    z = torch.empty_like(dz)
    gate_forward(compiled, y, frames, z, threads=1)
    assert z.isnan().nonzero().tolist() == [[3, 5], [6, 4]]


def test_what_does_not_fit_is_explained(compiled: Kernels) -> None:
    y, frames, dz = _rows(3, 4, 16, torch.float32, 1.0)
    assert fits(y) and not fits(y.double()) and not fits(y[:, :24])
    with pytest.raises(ValueError, match="threads must be at least 1"):
        gate_forward(compiled, y, frames, dz, threads=0)
    with pytest.raises(ValueError, match="do not support 5 frames"):
        gate_forward(compiled, y, torch.zeros(5, 32), dz, threads=1)
    with pytest.raises(ValueError, match=r"frames must be \(3, 32\)"):
        gate_forward(compiled, y, frames[:, :16].repeat(1, 2).T.contiguous().T, dz, threads=1)
    with pytest.raises(ValueError, match=r"z must be \(12, 16\).*bfloat16"):
        gate_forward(compiled, y, frames, dz.bfloat16(), threads=1)
    with pytest.raises(ValueError, match=r"dy must be \(12, 32\)"):
        gate_backward(compiled, y, dz, 3, dz, dz, threads=1)
