"""A training step never makes the host wait for the device.

The forward pass runs on fake tensors, of which no one knows the values, as if on a GPU; what the host would have to
wait for is an error. Backward pass and optimizer, which PyTorch does not run on a fake GPU, run on the CPU under the
same guard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.nn.acoustic import AcousticConfig
from vqaudio.nn.context import ContextConfig
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.fsq import FSQConfig
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.log_mel_cmn import LogMelCMNConfig
from vqaudio.nn.normalizer import Normalizer
from vqaudio.nn.pitch import PitchConfig
from vqaudio.nn.source_filter import IstftConfig
from vqaudio.nn.units import UnitsConfig
from vqaudio.nn.vector_quantizer import VectorQuantizer
from vqaudio.training import FitConfig
from vqaudio.training.fit import _Run

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"}
SAMPLES = 8000


def _check(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
    """Raises AssertionError if the host needs the result of `func`: a value, a shape that depends on one, a copy."""
    name = func.name().split(".")[0]
    assert name not in WAITS, f"{name} waits for the device"
    if name in ("aten::index", "aten::index_put", "aten::index_put_"):
        assert not any(index is not None and index.dtype == torch.bool for index in args[1]), f"{name} by a mask"
    device = (kwargs or {}).get("device")
    if name == "aten::_to_copy" and device is not None and device.type != args[0].device.type:
        assert device.type == "cuda" and (kwargs or {}).get("non_blocking"), f"a copy to {device} that is waited for"


class NoWaiting(TorchDispatchMode):
    """Checks operations on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        _check(func, args, kwargs)
        return func(*args, **(kwargs or {}))


class FakeGPU(FakeTensorMode):
    """Checks operations of fake tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        _check(func, args, kwargs)
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x.sum().item(),
        lambda x: x.index_put_((x > 0,), torch.zeros((), device=x.device)),
    ],
)
def test_the_guard_refuses_what_waits(waits: Any) -> None:
    with FakeGPU(), pytest.raises(AssertionError):
        waits(torch.ones(3, device="cuda"))


def _stages(cfg: SpeechVQVAEConfig) -> Iterator[tuple[str, SpeechVQVAEConfig]]:
    units = UnitsConfig(
        num_clusters=5, num_cepstra=3, hop_length=40, channels=6, cluster_offsets=(-1, 0), cepstrum_offsets=(0,)
    )
    full = replace(
        cfg,
        context=ContextConfig(dilations=(1, 2), channels=6, lookahead=2),
        spectrum=LogMelConfig(n_mels=10, hop_length=40, win_length=100),
        pitch=PitchConfig(win_length=640),
        acoustic=AcousticConfig(dilations=(1,), channels=6, lookahead=1, upsampling=2),
        istft=IstftConfig(dilations=(1,), channels=6, lookahead=2, points=9),
    )
    for stage in ("joint", "codes", "context", "decoder", "istft"):
        yield stage, replace(full, stage=stage)
    yield "wavenet alone", replace(cfg, time_jitter=0.1, decoder=replace(cfg.decoder, input_noise=0.1, past_noise=2.0))
    yield "units", replace(cfg, stage="codes", target="units", units=units)
    front = LogMelCMNConfig(n_mels=12, hop_length=40, win_length=100)
    encoder = EncoderConfig(strides=(2,), channels=(8,), dilations=(1,), dim=4, lookahead=80, frontend=front)
    yield "front-end with memory", replace(cfg, encoder=encoder)
    for update in ("gradient", "simvq"):
        quantizer = replace(cfg.quantizer, codebook_update=update, restart_threshold=0.1 * (update == "gradient"))
        yield update, replace(cfg, quantizer=quantizer)
    yield "fsq", replace(cfg, quantizer=FSQConfig(levels=(3, 3), dim=4))
    yield (
        "rotation trick, unit norm",
        replace(cfg, quantizer=replace(cfg.quantizer, rotation_trick=True, unit_norm=True)),
    )
    for normalizer in ("none", "affine", "batch", "unit"):
        yield normalizer, replace(cfg, normalizer=normalizer)


STAGES = (
    *("joint", "codes", "context", "decoder", "istft", "wavenet alone", "units", "gradient", "simvq", "fsq"),
    *("front-end with memory", "rotation trick, unit norm", "none", "affine", "batch", "unit"),
)


def _on_gpu(model: SpeechVQVAE) -> SpeechVQVAE:
    """As model.to("cuda"), which does not exist for fake tensors."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                values = torch.empty_like(parameter, device="cuda")
                module._parameters[name] = nn.Parameter(values, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else torch.empty_like(buffer, device="cuda")
    return model


def _batch(device: str, units: bool, past: bool = False) -> dict[str, Tensor]:
    wav = torch.rand(3, 1, SAMPLES, device=device) - 0.5
    batch = {
        "wav": wav,
        "target": torch.zeros(3, SAMPLES, dtype=torch.long, device=device),
        "audio": wav[:, 0],
        "speaker": torch.zeros(3, dtype=torch.long, device=device),
        "lengths": torch.full((3,), SAMPLES, device=device),
    }
    if past:
        batch["past"] = torch.rand(3, 1, 160, device=device) - 0.5
        batch["past_lengths"] = torch.full((3,), 120, device=device)
        batch["future"] = torch.rand(3, 1, 80, device=device) - 0.5
    if units:
        batch["units"] = torch.zeros(3, SAMPLES // 40 + 2, dtype=torch.long, device=device)
        batch["cepstra"] = torch.zeros(3, SAMPLES // 40 + 2, 3, device=device)
    return batch


@pytest.mark.parametrize("name", STAGES)
def test_a_forward_pass_on_a_gpu_waits_for_nothing(spectrum_config: SpeechVQVAEConfig, name: str) -> None:
    plain = replace(spectrum_config, context=ContextConfig(), spectrum=LogMelConfig())
    cfg = dict(_stages(plain))[name]
    model = SpeechVQVAE(cfg)
    with FakeGPU(allow_non_fake_inputs=True):
        _on_gpu(model).train()
        for module in model.modules():  # as after the first step, which may wait
            if isinstance(module, (VectorQuantizer, Normalizer)):
                module._known_initialised = True
        loss, logs = model(**_batch("cuda", units=cfg.predicts_units, past=bool(cfg.encoder.frontend.n_mels)))
    assert loss.device.type == "cuda" and loss.shape == ()
    assert all(value.device.type == "cuda" and value.shape == () for value in logs.values())


class _Rows:
    seconds_per_step = 0.0

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
        return {"x": torch.randn(8 // parts, 4, generator=torch.Generator().manual_seed(step))}


class _Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.25), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.layers(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"root": loss.detach().sqrt()}


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}, {"max_grad_norm": 0.0, "ema_decay": 0.0}])
def test_backward_pass_optimizer_and_logs_wait_for_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    run = _Run(_Regression(), _Rows(), FitConfig(steps=5, precision="no", **options), tmp_path, None, None, {})
    try:
        run.resume()
        for step, batches in run.batches():
            with NoWaiting():
                run.train_step(step, batches)
        assert len(run.logs["loss"]) == 5 * options.get("gradient_accumulation_steps", 1)
    finally:
        run.close()
