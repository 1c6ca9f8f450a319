"""The layers of a WaveNet at once: equal to one after the other, in results, states and gradients."""

import pytest
import torch
from torch import Tensor

from vqaudio.kernels import library
from vqaudio.nn import wavenet_fused as stack_module
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.nn.wavenet_fused import StackWeights, run_stack

WITH = {"none": {}, "cond": {"cond_dim": 3}, "speaker": {"num_speakers": 2}, "both": {"cond_dim": 3, "num_speakers": 2}}


def _net(randomise, **options) -> WaveNet:
    small = {
        "num_classes": 10,
        "layers": 4,
        "layers_per_stack": 3,
        "residual_channels": 4,
        "skip_channels": 5,
        "hop": 4,
        "cond_hidden_channels": 6,
    }
    return randomise(WaveNet(WaveNetConfig(**{**small, **options}))).double()


def _inputs(net: WaveNet, steps: int, dtype: torch.dtype = torch.float64):
    """x (B, T), cond (B, D, N) | None, speaker (B,) | None."""
    noise = torch.Generator().manual_seed(0)
    x = torch.randint(net.cfg.num_classes, (2, steps), generator=noise)
    cond = torch.randn(2, net.cfg.cond_dim, steps // net.cfg.hop, generator=noise, dtype=dtype).requires_grad_()
    return x, cond if net.cfg.cond_dim else None, torch.tensor([1, 0]) if net.cfg.num_speakers else None


def _results(net: WaveNet, inputs, *, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Logits, states, and the gradients of all parameters and of the conditioning."""
    x, cond, speaker = inputs
    net.zero_grad()
    runs = []
    with monkeypatch.context() as patched:
        patched.setattr("vqaudio.nn.wavenet.run_stack", lambda *given: (runs.append(1), run_stack(*given))[1])
        if not at_once:
            patched.setattr(WaveNet, "_can_run_fused", lambda *_: False)
        logits, state = net(x, cond, speaker)
    assert len(runs) == at_once
    probe = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * probe).sum().backward()
    found = {"logits": logits.detach()} | {f"past {i}": past.detach() for i, past in enumerate(state.pasts)}
    found |= {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    if cond is not None:
        found["cond"] = cond.grad.clone()
        cond.grad = None
    return found


@pytest.mark.parametrize("kind", WITH)
@pytest.mark.parametrize("options", [{}, {"kernel_size": 3}, {"layers": 1}, {"hop": 1}])
@pytest.mark.parametrize("steps", [4, 32])  # the field of the longest layer, and more
def test_equals_layer_after_layer(randomise, monkeypatch, kind, options, steps) -> None:
    net = _net(randomise, **WITH[kind], **options)
    inputs = _inputs(net, steps)
    expected = _results(net, inputs, at_once=False, monkeypatch=monkeypatch)
    found = _results(net, inputs, at_once=True, monkeypatch=monkeypatch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.skipif(library.kernels() is None, reason=library.why_missing())
@pytest.mark.parametrize("compiled", [True, False])
def test_equals_layer_after_layer_in_float32(randomise, monkeypatch, compiled) -> None:
    net = _net(randomise, cond_dim=3, num_speakers=2, residual_channels=16).float()
    if not compiled:
        monkeypatch.setattr(stack_module, "kernels", lambda: None)
    inputs = _inputs(net, 32, torch.float32)
    expected = _results(net, inputs, at_once=False, monkeypatch=monkeypatch)
    found = _results(net, inputs, at_once=True, monkeypatch=monkeypatch)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_bfloat16_is_as_near_to_float32_as_autograd_is(monkeypatch) -> None:
    torch.manual_seed(0)
    net = WaveNet(WaveNetConfig(layers=10, cond_dim=8, num_speakers=2, residual_channels=32, skip_channels=32, hop=16))
    inputs = _inputs(net, 512, torch.float32)
    exact = _results(net, inputs, at_once=False, monkeypatch=monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        usual = _results(net, inputs, at_once=False, monkeypatch=monkeypatch)
        ours = _results(net, inputs, at_once=True, monkeypatch=monkeypatch)

    def error(found: dict[str, Tensor]) -> float:
        """Of all gradients together, relative."""
        names = [name for name, _ in net.named_parameters()]
        pairs = [(found[name].float(), exact[name]) for name in names]
        differences = torch.stack([(a - b).norm() for a, b in pairs])
        return float(differences.norm() / torch.stack([b.norm() for _, b in pairs]).norm())

    assert error(ours) < 1.5 * error(usual)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_the_gradient_is_that_of_finite_differences(kernel_size) -> None:
    noise = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise, dtype=torch.float64).requires_grad_()

    h, frames = values(2, 6, 3), values(3, 2, 2, 6)
    weights = StackWeights(values(3, kernel_size, 6, 3), values(2, 3, 3), values(2, 3), values(3, 4, 3), values(4))
    assert torch.autograd.gradcheck(
        lambda h, frames, *weights: run_stack(h, frames, StackWeights(*weights), (1, 2, 4))[0], (h, frames, *weights)
    )


def test_the_conditioning_has_the_same_gradient_where_weights_are_held(randomise, monkeypatch) -> None:
    net = _net(randomise, cond_dim=3)
    everything = _results(net, inputs := _inputs(net, 16), at_once=True, monkeypatch=monkeypatch)
    net.requires_grad_(False)
    only = _results(net, inputs, at_once=True, monkeypatch=monkeypatch)
    torch.testing.assert_close(only["cond"], everything["cond"], rtol=1e-12, atol=1e-12)


def test_what_is_no_whole_sequence_goes_layer_after_layer(randomise, monkeypatch) -> None:
    net = _net(randomise, cond_dim=3)
    monkeypatch.setattr("vqaudio.nn.wavenet.run_stack", None)
    x, cond, _ = _inputs(net, 8)
    assert cond is not None
    net(x[:, :7], cond)  # a frame is not full
    with torch.no_grad():
        _, state = net(x, cond)
    net(x, cond, state=state)
