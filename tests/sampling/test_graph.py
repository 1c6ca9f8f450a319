"""The backend for GPUs: its unrecorded step on a CPU, with the properties that a recording needs; recorded on a GPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling import generate
from vqaudio.sampling.backends import cuda_graph, ring_buffers
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.graph import CudaGraphState
from vqaudio.sampling.ring import RingBufferState

BOTH = {"cond_dim": 3, "num_speakers": 2}
SAMPLING = [
    SamplingConfig(),
    SamplingConfig(temperature=0.7, top_k=3),
    SamplingConfig(temperature=0.0),
    SamplingConfig(top_p=0.8),
    SamplingConfig(temperature=0.7, top_k=5, top_p=0.5),
]


@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_step_never_waits_for_the_device(sampling) -> None:
    """Tensors without values, on a GPU that is not there, raise where the host would need a value or another device."""
    with FakeTensorMode(), torch.inference_mode(), torch.device("cuda"):
        net = WaveNet(WaveNetConfig(layers=3, cond_dim=4, num_speakers=2)).requires_grad_(False)
        streams = CudaGraphState(net, torch.zeros(2, dtype=torch.long), 2, sampling)
        streams.begin_frame(torch.zeros(2, 4, 1))
        RingBufferState.advance(streams, streams.uniform)
        assert streams.previous.device.type == "cuda"


@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_step_keeps_its_tensors_where_they_are(make_net, inputs_of, sampling) -> None:
    """A replay reads and writes the addresses that were recorded, whatever happened in between."""
    net = make_net(**BOTH)
    inputs = inputs_of(net, 2, 12)
    streams = CudaGraphState(net, inputs["speaker"], 2, sampling)

    def places() -> dict[str, int]:
        return {name: value.data_ptr() for name, value in vars(streams).items() if isinstance(value, torch.Tensor)}

    before = places()
    streams.extend(inputs["cond"], torch.rand(2, 12), torch.tensor([12, 12]))
    assert places() == before
    assert streams.time.item() == streams.position == 12


def test_its_state_after_each_step_is_that_of_the_ring_buffers(make_net, inputs_of) -> None:
    net = make_net(**BOTH)
    inputs, uniform = inputs_of(net, 3, 30), torch.rand(3, 30, generator=torch.Generator().manual_seed(0))
    ring, graph = (kind(net, inputs["speaker"], 3, SamplingConfig()) for kind in (RingBufferState, CudaGraphState))
    with torch.inference_mode():
        for t in range(30):
            for streams in (ring, graph):
                if t % net.cfg.hop == 0:
                    streams.begin_frame(inputs["cond"][:, :, t // net.cfg.hop, None])
                streams.advance(uniform[:, t])
            assert torch.equal(graph.previous, ring.previous)
            assert torch.equal(graph.ring, ring.ring)
    assert len(graph.ring.unique()) > 10


@pytest.mark.gpu
@pytest.mark.parametrize("streams", [1, 3, 256])
@pytest.mark.parametrize("sampling", SAMPLING)
def test_recorded_generation_is_that_of_the_ring_buffers(make_net, inputs_of, streams, sampling) -> None:
    net = make_net(torch.float64, num_classes=64, residual_channels=16, skip_channels=16, **BOTH).cuda()
    lengths = [60 - (7 * b) % 60 for b in range(streams)]
    inputs = {name: value.cuda() for name, value in inputs_of(net, streams, 60).items()}
    options = {**inputs, "steps": lengths, "sampling": sampling}
    expected, chosen = (generate(net, **options, backend=backend) for backend in (ring_buffers, cuda_graph))
    assert torch.equal(chosen, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("streams", [1, 3, 256])
def test_recorded_pieces_are_the_whole(make_net, inputs_of, streams) -> None:
    net = make_net(torch.float64, **BOTH).cuda()
    inputs = {name: value.cuda() for name, value in inputs_of(net, streams, 40).items()}
    uniform = torch.rand(streams, 40, generator=torch.Generator().manual_seed(0)).cuda()

    def extended(kind: type[RingBufferState], pieces: list[tuple[int, int]]) -> torch.Tensor:
        state, chosen = kind(net, inputs["speaker"], streams, SamplingConfig(temperature=0.8, top_k=4)), []
        for start, stop in pieces:
            cond, lengths = inputs["cond"][:, :, start // 4 : stop // 4], torch.full((streams,), stop - start)
            chosen.append(state.extend(cond, uniform[:, start:stop], lengths))
        return torch.cat(chosen, dim=1)

    pieces = [(0, 16), (16, 20), (20, 24), (24, 32), (32, 40)]
    assert torch.equal(extended(CudaGraphState, pieces), extended(RingBufferState, [(0, 40)]))


@pytest.mark.gpu
def test_a_recording_that_fails_is_an_error(make_net, monkeypatch) -> None:
    monkeypatch.setattr("vqaudio.sampling.ring.draw", lambda logits, *_: logits.argmax(1).fill_(int(logits.argmax())))
    net = make_net().cuda()
    with pytest.raises(RuntimeError, match="captur"):
        generate(net, steps=4, backend=cuda_graph)
