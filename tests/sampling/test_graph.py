"""The sampler for GPUs: its step as it is on a CPU, asked what a recording would ask of it; recorded where a GPU is."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling import generate
from vqaudio.sampling.backends import cuda_graph, ring_buffers
from vqaudio.sampling.graph import CudaGraphState
from vqaudio.sampling.ring import RingBufferState

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="recording a CUDA graph needs a GPU")
BOTH = {"cond_dim": 3, "num_speakers": 2}
CONTROLS = [(1.0, None), (0.7, 3), (0.0, None)]


@pytest.mark.parametrize(("temperature", "top_k"), CONTROLS)
def test_a_step_never_waits_for_the_device(temperature, top_k) -> None:
    """Tensors without values, on a GPU that is not there, raise where the host would need a value or another device."""
    with FakeTensorMode(), torch.inference_mode(), torch.device("cuda"):
        net = WaveNet(WaveNetConfig(layers=3, cond_dim=4, num_speakers=2)).requires_grad_(False)
        streams = CudaGraphState(net, torch.zeros(2, dtype=torch.long), 2)
        streams.begin_frame(torch.zeros(2, 4, 1))
        RingBufferState.advance(streams, streams.uniform, temperature, top_k)
        assert streams.before.device.type == "cuda"


@pytest.mark.parametrize(("temperature", "top_k"), CONTROLS)
def test_a_step_keeps_its_tensors_where_they_are(make_net, inputs_of, temperature, top_k) -> None:
    """A replay reads and writes the addresses that were recorded, whatever came after."""
    net = make_net(**BOTH)
    inputs = inputs_of(net, 2, 12)
    streams = CudaGraphState(net, inputs["speaker"], 2)

    def places() -> dict[str, int]:
        return {name: value.data_ptr() for name, value in vars(streams).items() if isinstance(value, torch.Tensor)}

    before = places()
    streams.extend(inputs["cond"], torch.rand(2, 12), torch.tensor([12, 12]), temperature=temperature, top_k=top_k)
    assert places() == before
    assert streams.time.item() == streams.position == 12


def test_its_state_after_each_step_is_that_of_the_ring_buffers(make_net, inputs_of) -> None:
    net = make_net(**BOTH)
    inputs, uniform = inputs_of(net, 3, 30), torch.rand(3, 30, generator=torch.Generator().manual_seed(0))
    ring, graph = (kind(net, inputs["speaker"], 3) for kind in (RingBufferState, CudaGraphState))
    with torch.inference_mode():
        for t in range(30):
            for streams in (ring, graph):
                if t % net.cfg.hop == 0:
                    streams.begin_frame(inputs["cond"][:, :, t // net.cfg.hop, None])
                streams.advance(uniform[:, t], 1.0, None)
            assert torch.equal(graph.before, ring.before)
            assert torch.equal(graph.ring, ring.ring)
    assert len(graph.ring.unique()) > 10


@needs_gpu
@pytest.mark.parametrize("streams", [1, 3, 256])
@pytest.mark.parametrize(("temperature", "top_k"), CONTROLS)
def test_recorded_generation_is_that_of_the_ring_buffers(make_net, inputs_of, streams, temperature, top_k) -> None:
    net = make_net(torch.float64, num_classes=64, residual_channels=16, skip_channels=16, **BOTH).cuda()
    lengths = [60 - (7 * b) % 60 for b in range(streams)]
    inputs = {name: value.cuda() for name, value in inputs_of(net, streams, 60).items()}
    options = {**inputs, "steps": lengths, "temperature": temperature, "top_k": top_k}
    expected, chosen = (
        generate(net, **options, generator=torch.Generator().manual_seed(0), sampler=sampler(net))
        for sampler in (ring_buffers, cuda_graph)
    )
    assert torch.equal(chosen, expected)


@needs_gpu
@pytest.mark.parametrize("streams", [1, 3, 256])
def test_recorded_pieces_are_the_whole(make_net, inputs_of, streams) -> None:
    """Also where the controls change in between, and with them the recording."""
    net = make_net(torch.float64, **BOTH).cuda()
    inputs = {name: value.cuda() for name, value in inputs_of(net, streams, 40).items()}
    uniform = torch.rand(streams, 40, generator=torch.Generator().manual_seed(0)).cuda()

    def extended(opened: RingBufferState, pieces: list[tuple[int, int, float, int | None]]) -> torch.Tensor:
        chosen = []
        for start, stop, temperature, top_k in pieces:
            cond, lengths = inputs["cond"][:, :, start // 4 : stop // 4], torch.full((streams,), stop - start)
            options = {"temperature": temperature, "top_k": top_k}
            chosen.append(opened.extend(cond, uniform[:, start:stop], lengths, **options))
        return torch.cat(chosen, dim=1)

    few = [(0, 20, 1.0, None), (20, 32, 0.5, 3), (32, 40, 1.0, None)]
    many = [(0, 16, 1.0, None), (16, 20, 1.0, None), (20, 24, 0.5, 3), (24, 32, 0.5, 3), (32, 40, 1.0, None)]
    expected = extended(RingBufferState(net, inputs["speaker"], streams), few)
    assert torch.equal(extended(CudaGraphState(net, inputs["speaker"], streams), many), expected)


@needs_gpu
def test_a_recording_that_fails_is_an_error(make_net, monkeypatch) -> None:
    monkeypatch.setattr("vqaudio.sampling.ring.draw", lambda logits, *_: logits.argmax(1).fill_(int(logits.argmax())))
    net = make_net().cuda()
    with pytest.raises(RuntimeError, match="captur"):
        generate(net, steps=4, sampler=cuda_graph(net))
