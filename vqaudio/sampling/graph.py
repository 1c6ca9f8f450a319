"""Generation on a GPU: a step of the ring buffers recorded once, as a CUDA graph, and replayed.

Not yet run on a GPU: the steps are tested on a CPU, recording and replaying them is not.

Letters: B streams.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.ring import RingStreams

_RECORDING = threading.Lock()  # PyTorch can record one graph at a time in a process


class GraphStreams(RingStreams):
    """B streams of one WaveNet in progress: RingStreams whose steps are one launch each on a GPU, not hundreds.

    A graph holds one step. Its kernels run one after the other on the device for longer than the host needs to
    launch the next replay, and the host never waits: a graph of a whole frame would save the gap between two
    replays alone, would cost as many times the recording, which every generation and every change of temperature
    or top_k pays, and could not stop where an extension ends inside a frame. What a frame says is computed between
    two replays, into the tensor that all steps read.

    On other devices the same step runs as it is.
    """

    @torch.inference_mode()
    def __init__(self, net: WaveNet, speaker: Tensor | None, streams: int):
        """speaker (B,), or None for a net without."""
        super().__init__(net, speaker, streams)
        self.uniform = torch.zeros(streams, device=self.before.device)  # of the present step
        self.graph: torch.cuda.CUDAGraph | None = None
        self.controls: tuple[float, int | None] | None = None  # temperature and top_k, which the graph contains

    def advance(self, uniform: Tensor, temperature: float, top_k: int | None) -> None:
        """uniform (B,): takes one step of all streams, which becomes the step `before`."""
        self.uniform.copy_(uniform)
        if self.uniform.device.type != "cuda":
            super().advance(self.uniform, temperature, top_k)
        elif self.graph is not None and self.controls == (temperature, top_k):
            self.graph.replay()
        else:
            self._advance_and_record(temperature, top_k)

    def _advance_and_record(self, temperature: float, top_k: int | None) -> None:
        """Takes a step kernel by kernel, which lets libraries set themselves up, then records the ones that follow.

        Recording runs nothing. What fails here is raised: there is no other way behind it. Not yet run on a GPU.
        """
        self.graph = None
        device = self.uniform.device
        graph, stream, present = torch.cuda.CUDAGraph(), torch.cuda.Stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(present)
        with torch.cuda.stream(stream):
            super().advance(self.uniform, temperature, top_k)
        present.wait_stream(stream)
        # "thread_local": other threads may go on using the device meanwhile
        recording = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
        with _RECORDING, torch.cuda.device(device), recording:
            super().advance(self.uniform, temperature, top_k)
        self.graph, self.controls = graph, (temperature, top_k)
