"""The fused kernel for GPUs: interpreted on a CPU it gives the classes of the reference, and it compiles for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling import generate, reference
from vqaudio.sampling.backends import fused, ring_buffers
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.fused import FusedState

pytest.importorskip("triton", reason="PyTorch brings Triton on Linux alone")
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="Triton is set to compile for a GPU")
BOTH = {"cond_dim": 3, "num_speakers": 2}


@interpreted
@pytest.mark.parametrize(
    ("sampling", "options"),
    [
        (SamplingConfig(), BOTH),
        (SamplingConfig(temperature=0.7, top_k=3), {"num_speakers": 2, "kernel_size": 3}),
        (SamplingConfig(temperature=0.0), {"cond_dim": 3, "layers": 1}),
        (SamplingConfig(top_p=0.8), {"kernel_size": 4, "residual_channels": 3}),
        (SamplingConfig(temperature=1.5, top_k=5, top_p=0.5), {**BOTH, "num_classes": 9, "skip_channels": 33}),
        (SamplingConfig(top_k=20, top_p=1e-6), {}),
    ],
)
def test_its_classes_are_those_of_the_reference(make_net, inputs_of, sampling, options) -> None:
    net = make_net(torch.float64, **options)
    given = {**inputs_of(net, 3, 13), "steps": [13, 0, 6], "sampling": sampling, "streams": 3}
    assert torch.equal(generate(net, **given, backend=fused), reference.generate(net, **given))


@interpreted
def test_it_continues_from_its_state(make_net, inputs_of) -> None:
    net = make_net(torch.float64, **BOTH)
    inputs, uniform = inputs_of(net, 2, 12), torch.rand(2, 12, generator=torch.Generator().manual_seed(0))
    whole, parts = (FusedState(net, inputs["speaker"], 2, SamplingConfig()) for _ in range(2))
    expected = whole.extend(inputs["cond"], uniform, torch.tensor([12, 12]))
    chosen = [
        parts.extend(inputs["cond"][:, :, n : n + 1], uniform[:, 4 * n : 4 * n + 4], torch.tensor([4, 4]))
        for n in range(3)
    ]
    assert torch.equal(torch.cat(chosen, 1), expected)
    with pytest.raises(ValueError, match="step 14 is not the first of a frame of 4"):
        parts.extend(inputs["cond"][:, :, :1], uniform[:, :2], torch.tensor([2, 2]))
        parts.extend(inputs["cond"][:, :, :1], uniform[:, :2], torch.tensor([2, 2]))


@interpreted
def test_it_continues_a_prompt(make_net) -> None:
    net = make_net(torch.float64)
    prompt = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(0))
    given = {"steps": 6, "streams": 2, "prompt": prompt}
    assert torch.equal(generate(net, **given, backend=fused), generate(net, **given, backend=ring_buffers))


@interpreted
def test_weights_in_bfloat16_are_rounded_and_nothing_else(make_net, inputs_of, assert_same_or_tie) -> None:
    net = make_net(**BOTH)
    rounded = make_net(**BOTH)
    conditioning = ("condition", "project", "speaker")
    for name, parameter in rounded.named_parameters():
        if not name.startswith(conditioning) and not (name.startswith("dilated") and name.endswith("bias")):
            parameter.copy_(parameter.bfloat16())
    inputs = inputs_of(net, 2, 12)
    generator = torch.Generator().manual_seed(3)
    chosen = generate(
        net, **inputs, steps=12, sampling=SamplingConfig(precision="bf16"), generator=generator, backend=fused
    )
    expected = generate(rounded, **inputs, steps=12, generator=generator.manual_seed(3), backend=ring_buffers)
    uniform = torch.rand(2, 12, generator=generator.manual_seed(3))
    assert_same_or_tie(rounded, inputs, chosen, expected, uniform)


COMPILE = """
import triton
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vqaudio.kernels.wavenet_triton import wavenet_steps as kernel

pointers = dict(dilations="*i32", ring="*fp32", scratch="*fp32", previous="*i64", inputs="*i64", uniforms="*fp32",
                chosen="*i64", lengths="*i64", bias="*fp32")
numbers = dict.fromkeys(("time", "steps", "frames", "hop", "bias_stream", "bias_frame", "top_k"), "i32")
numbers |= dict(temperature="fp32", top_p="fp32")
fixed = dict(Q=256, L=20, P=1, R=64, S=128, LONGEST=512, CLASSES=256, CHANNELS=64, SKIPS=128, CHUNK=32, FORCED=False,
             GREEDY=False, TOP_K=True, TOP_P=True, ACC=tl.float32)
for stored in ("*bf16", "*fp32"):
    signature = {n: "constexpr" if n in fixed else (pointers | numbers).get(n, stored) for n in kernel.arg_names}
    constants = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert ".entry wavenet_steps" in done.asm["ptx"] and len(done.asm["cubin"]) > 1000
    print("compiled")
"""


def test_it_compiles_for_a_gpu(tmp_path) -> None:
    """For compute capability 9.0, with the assembler that Triton brings; no GPU is needed."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["compiled", "compiled"], done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(temperature=0.7, top_k=5, top_p=0.5)])
@pytest.mark.parametrize("streams", [1, 256])
def test_compiled_it_gives_the_classes_of_the_ring_buffers(
    make_net: Callable[..., WaveNet], inputs_of, sampling, streams
) -> None:
    net = make_net(torch.float64, num_classes=64, residual_channels=16, skip_channels=16, **BOTH).cuda()
    inputs = {name: value.cuda() for name, value in inputs_of(net, streams, 60).items()}
    given = {**inputs, "steps": [60 - b % 60 for b in range(streams)], "sampling": sampling}
    assert torch.equal(generate(net, **given, backend=fused), generate(net, **given, backend=ring_buffers))


def test_what_it_cannot_do_is_said(make_net) -> None:
    net = make_net()
    if os.environ.get("TRITON_INTERPRET") == "1":
        with pytest.raises(ValueError, match="float32 or bf16, got precision int8"):
            FusedState(net, None, 1, SamplingConfig(precision="int8"))
    else:
        with pytest.raises(ValueError, match="this model is on cpu"):
            FusedState(net, None, 1, SamplingConfig())
