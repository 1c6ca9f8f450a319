"""The backends in PyTorch against the reference loop, in float64, where rounding decides nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqaudio.sampling import generate, reference
from vqaudio.sampling.backends import cuda_graph, ring_buffers
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.ring import RingBufferState

WITH = {"none": {}, "cond": {"cond_dim": 3}, "speaker": {"num_speakers": 2}, "both": {"cond_dim": 3, "num_speakers": 2}}


@settings(max_examples=120, deadline=None)
@given(
    backend=st.sampled_from([ring_buffers, cuda_graph]),
    kind=st.sampled_from(list(WITH)),
    layers=st.integers(1, 5),
    cycle=st.integers(1, 4),
    kernel_size=st.integers(2, 4),
    classes=st.integers(2, 9),
    hop=st.integers(1, 5),
    residual=st.integers(1, 4),
    lengths=st.lists(st.integers(0, 24), min_size=1, max_size=3),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 1.5]),
    top_k=st.sampled_from([None, 1, 2, 5, 20]),
    top_p=st.sampled_from([None, 1e-6, 0.3, 0.5, 0.9, 0.999, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_ring_buffer_equals_the_reference_loop(
    make_net,
    inputs_of,
    backend,
    kind,
    layers,
    cycle,
    kernel_size,
    classes,
    hop,
    residual,
    lengths,
    temperature,
    top_k,
    top_p,
    seed,
) -> None:
    shape = {"layers": layers, "layers_per_stack": cycle, "kernel_size": kernel_size, "residual_channels": residual}
    net = make_net(torch.float64, **WITH[kind], **shape, num_classes=classes, hop=hop)
    streams, steps = len(lengths), max(lengths)
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    given = {**inputs_of(net, streams, steps), "steps": lengths, "sampling": sampling, "streams": streams}
    expected = reference.generate(net, **given)
    chosen = generate(net, **given, backend=backend)
    assert chosen.shape == (streams, steps)
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, expected)


@pytest.mark.parametrize("kind", WITH)
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_its_logits_are_those_of_the_parallel_pass(make_net, inputs_of, kind, kernel_size) -> None:
    net = make_net(
        **WITH[kind], kernel_size=kernel_size, layers=8, layers_per_stack=4, residual_channels=16, skip_channels=16
    )
    steps, hop = 3 * net.cfg.receptive_field, net.cfg.hop
    inputs = inputs_of(net, 3, steps)
    target = torch.randint(net.cfg.num_classes, (3, steps), generator=torch.Generator().manual_seed(2))
    x = net.shift(target)
    expected, _ = net(x, inputs.get("cond"), inputs.get("speaker"))
    streams = RingBufferState(net, inputs.get("speaker"), 3, SamplingConfig())
    logits = []
    with torch.inference_mode():
        for t in range(steps):
            if t % hop == 0:
                streams.begin_frame(inputs["cond"][:, :, t // hop : t // hop + 1] if "cond" in inputs else None)
            logits.append(streams.step(x[:, t]))
    assert expected.std() > 0.3
    torch.testing.assert_close(torch.stack(logits, dim=2), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", [ring_buffers, cuda_graph])
def test_conditioning_that_starts_inside_a_frame_is_refused(make_net, backend) -> None:
    net = make_net(cond_dim=3)
    streams = backend(net, SamplingConfig()).open(None, 1)
    streams.extend(torch.zeros(1, 3, 1), torch.rand(1, 3), torch.tensor([3]))
    with pytest.raises(ValueError, match="step 3 is not the first of a frame of 4"):
        streams.extend(torch.zeros(1, 3, 1), torch.rand(1, 3), torch.tensor([3]))
