"""Python interface of the compiled WaveNet: packed weights, and the state of streams that are generated with it.

Letters: B streams, T steps, N frames, L layers, R residual channels, S skip channels, Q classes, H hidden channels of
the conditioning, D width of a code.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vqaudio.kernels.library import MAX_SIZE, Kernels
from vqaudio.kernels.precision import PRECISIONS, Precision

MAX_REACH = 2**24  # steps that a layer looks back
MAX_STATE_BYTES = 2**36  # of the ring buffers of all streams


@dataclass(frozen=True)
class WaveNetShape:
    """Sizes of a WaveNet, as `vqaudio.nn.wavenet.WaveNetConfig` names them."""

    classes: int
    kernel_size: int
    residual: int
    skip: int
    hop: int
    condition: int
    speakers: int
    hidden: int
    dilations: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name != "dilations"}
        for name, value in {**sizes, "layers": len(self.dilations), "dilation": max(self.dilations, default=0)}.items():
            least = {"condition": 0, "speakers": 0, "kernel_size": 2}.get(name, 1)
            if not least <= value <= MAX_SIZE:
                raise ValueError(f"{name} must lie in {least}..{MAX_SIZE} for the compiled WaveNet, got {value}")
        if min(self.dilations) < 1:
            raise ValueError(f"dilations must all be at least 1, got {self.dilations}")
        if (reach := max(self.dilations) * (self.kernel_size - 1)) > MAX_REACH:
            raise ValueError(f"dilation * (kernel_size - 1) must be at most {MAX_REACH:,} steps, got {reach:,}")

    def state_bytes(self, streams: int) -> int:
        """Upper bound of the state: ring buffers whose lengths are powers of two, of padded float32 vectors."""
        rings = sum(1 << (dilation * (self.kernel_size - 1) - 1).bit_length() for dilation in self.dilations)
        return 4 * (self.residual + 32) * rings * streams

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights, in the order of kernels.cpp; () where there is no such conditioning."""
        r, s, q, h, layers = self.residual, self.skip, self.classes, self.hidden, len(self.dilations)
        return {
            "embed": (q + 1, r),
            "dilated_weight": (layers, 2 * r, r, self.kernel_size),
            "dilated_bias": (layers, 2 * r),
            "residual_weight": (layers - 1, r, r),
            "residual_bias": (layers - 1, r),
            "skip_weight": (s, layers * r),
            "skip_bias": (s,),
            "head_weight": (s, s),
            "head_bias": (s,),
            "out_weight": (q, s),
            "out_bias": (q,),
            "condition_weight": (h, self.condition) if self.condition else (),
            "condition_bias": (h,) if self.condition else (),
            "speaker": (self.speakers, h) if self.speakers else (),
            "project_weight": (layers * 2 * r, h) if self.condition or self.speakers else (),
            "project_bias": (layers * 2 * r,) if self.condition or self.speakers else (),
        }


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("classes", "layers", "kernel_size", "residual", "skip", "hop")),
        *((name, ctypes.c_int32) for name in ("condition", "speakers", "hidden")),
        ("dilations", ctypes.POINTER(ctypes.c_int32)),
    ]


class _Sampling(ctypes.Structure):
    _fields_ = [("temperature", ctypes.c_float), ("top_k", ctypes.c_int32), ("top_p", ctypes.c_float)]


class _Request(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("cond", "speakers", "teacher_forced", "uniforms", "lengths")),
        ("steps", ctypes.c_int64),
        ("frames", ctypes.c_int64),
        ("sampling", _Sampling),
        ("chosen", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    ]


class CompiledState:
    """B streams of a WaveNet in progress, its weights packed for the kernels, on up to `threads` threads.

    A stream has the same samples, bit for bit, for any number of threads, in any batch, and in whatever pieces it is
    extended; on another instruction set it may differ by rounding. Only one Python thread at a time may extend the
    same streams.
    """

    def __init__(
        self,
        kernels: Kernels,
        shape: WaveNetShape,
        weights: Mapping[str, Tensor],
        speakers: Tensor | None,
        *,
        streams: int,
        precision: Precision,
        threads: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ):
        """Weights as `shape.tensors()` lists them; speakers (B,) int64, or None for a net without.

        Classes are drawn as `vqaudio.sampling.logits.draw` defines it for this temperature, top_k and top_p. Raises
        ValueError for weights that are not finite or of other shapes, and for speakers, sizes and options out of range.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        if streams < 1 or threads < 1:
            raise ValueError(f"streams and threads must be at least 1, got {streams} and {threads}")
        self.sampling = _checked_sampling(temperature, top_k, top_p)
        if (state := shape.state_bytes(streams)) > MAX_STATE_BYTES:
            raise ValueError(
                f"the state of {streams} streams of this WaveNet would take {state:,} bytes, "
                f"at most {MAX_STATE_BYTES:,} are allowed; open fewer streams at once"
            )
        self.shape, self.streams, self.position = shape, streams, 0
        self.ended = torch.zeros(streams, dtype=torch.bool)
        self.failed = False
        self.speakers = self._checked_speakers(speakers)
        kept = [_checked(name, weights.get(name), size) for name, size in shape.tensors().items()]
        pointers = (ctypes.c_void_p * len(kept))(*(None if tensor is None else tensor.data_ptr() for tensor in kept))
        layers = len(shape.dilations)
        sizes = _Shape(
            **{name: value for name, value in vars(shape).items() if name != "dilations"},
            layers=layers,
            dilations=(ctypes.c_int32 * layers)(*shape.dilations),
        )
        self.functions = kernels.functions
        fewest = -(-streams // self.functions.vq_max_group())
        groups = min(streams, -(-fewest // threads) * threads)  # as many for each thread
        self.handle = self.functions.vq_streams_new(
            ctypes.byref(sizes), ctypes.byref(pointers), PRECISIONS.index(precision), streams, groups, threads
        )
        if not self.handle:
            raise MemoryError(f"not enough memory for {streams} streams of this WaveNet")
        weakref.finalize(self, self.functions.vq_streams_free, self.handle)

    def extend(
        self,
        cond: Tensor | None,
        uniforms: Tensor,
        lengths: Tensor,
        *,
        teacher_forced: Tensor | None = None,
        logits: Tensor | None = None,
    ) -> Tensor:
        """cond (B, D, N), uniforms (B, T) in [0, 1), lengths (B,) int64 not increasing -> classes (B, T) int64.

        Stream b takes lengths[b] steps; after them its classes are 0, and it must not be extended again. With
        local conditioning an extension starts at the start of a frame: N = ceil(T / hop), and all but the last have T
        a multiple of the hop. `teacher_forced` (B, T) int64: the input of each step, instead of the class drawn before
        it. `logits` (B, T, Q) float32 is filled. Raises ValueError for other shapes and for values out of range,
        and where logits are not finite, after which the streams cannot be extended again.
        """
        shape, streams, steps = self.shape, self.streams, uniforms.shape[-1]
        frames = -(-steps // shape.hop)
        if self.failed:
            raise ValueError("an earlier extension of these streams failed; open new ones")
        request = _Request(steps=steps, frames=frames, sampling=self.sampling)
        chosen = torch.zeros(streams, steps, dtype=torch.int64)
        if not steps:
            return chosen
        if (cond is None) == bool(shape.condition):
            raise ValueError(f"this WaveNet takes {'a' if shape.condition else 'no'} local conditioning")
        if cond is not None:
            if self.position % shape.hop:
                raise ValueError(f"step {self.position} is not the first of a frame of {shape.hop}")
            cond = _of("cond", cond.transpose(1, 2), (streams, frames, shape.condition), torch.float32)
            if not cond.isfinite().all():
                raise ValueError("cond has values that are not finite")
        uniforms = _of("uniforms", uniforms, (streams, steps), torch.float32)
        if not (uniforms.min() >= 0 and uniforms.max() < 1):
            raise ValueError(f"uniforms must lie in [0, 1), got {float(uniforms.min())}..{float(uniforms.max())}")
        lengths = _of("lengths", lengths, (streams,), torch.int64)
        if not 0 <= lengths[-1] <= lengths[0] <= steps or (lengths.diff() > 0).any():
            raise ValueError(f"lengths must not increase and lie in 0..{steps}, got {lengths.tolist()}")
        if (again := lengths[self.ended]).any():
            raise ValueError(f"{int((again > 0).sum())} of the streams ended before and cannot be extended again")
        if teacher_forced is not None:
            teacher_forced = _of("teacher_forced", teacher_forced, (streams, steps), torch.int64)
            low, high = int(teacher_forced.min()), int(teacher_forced.max())
            if not 0 <= low <= high <= shape.classes:
                raise ValueError(f"teacher_forced classes must lie in 0..{shape.classes}, got {low}..{high}")
        if logits is not None and not logits.is_contiguous():
            raise ValueError("logits must be contiguous")
        logits = None if logits is None else _of("logits", logits, (streams, steps, shape.classes), torch.float32)
        tensors = {"cond": cond, "speakers": self.speakers, "teacher_forced": teacher_forced, "uniforms": uniforms}
        for name, tensor in {**tensors, "lengths": lengths, "chosen": chosen, "logits": logits}.items():
            setattr(request, name, None if tensor is None else tensor.data_ptr())
        failure = self.functions.vq_streams_extend(self.handle, ctypes.byref(request))
        self.failed, self.ended = bool(failure), self.ended | (lengths < steps)
        if failure == 1:
            raise ValueError("logits are not finite: the weights of this WaveNet are damaged")
        if failure:
            raise MemoryError("not enough memory or threads to extend the streams")
        self.position += steps
        return chosen

    def _checked_speakers(self, speakers: Tensor | None) -> Tensor | None:
        known = self.shape.speakers
        if (speakers is None) == bool(known):
            raise ValueError(f"this WaveNet takes {'a' if known else 'no'} speaker")
        if speakers is None:
            return None
        speakers = speakers.to("cpu", torch.int64).contiguous()
        if speakers.shape != (self.streams,) or not 0 <= speakers.min() <= speakers.max() < known:
            raise ValueError(f"speaker must be ({self.streams},) of 0..{known - 1}, got {speakers.tolist()}")
        return speakers


def _checked_sampling(temperature: float, top_k: int | None, top_p: float | None) -> _Sampling:
    """As the kernels take it: 0 for no top_k, 1 for no top_p."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number, 0 or more, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    return _Sampling(temperature, min(top_k or 0, MAX_SIZE), 1.0 if top_p is None else top_p)


def _checked(name: str, tensor: Tensor | None, size: tuple[int, ...]) -> Tensor | None:
    """A weight as the kernels take it; None if the net has none of this name."""
    if (tensor is None) != (size == ()):
        raise ValueError(f"{name}: {'missing' if tensor is None else 'this WaveNet has none'}")
    if tensor is None:
        return None
    tensor = _of(name, tensor.detach(), size, torch.float32)
    if not tensor.isfinite().all():
        raise ValueError(f"{name} has values that are not finite; the weights of this WaveNet are damaged")
    return tensor


def _of(name: str, tensor: Tensor, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if tensor.shape != size or tensor.dtype != dtype or tensor.device.type != "cpu":
        got = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
        raise ValueError(f"{name} must be {size} {dtype} on the CPU, got {got}")
    return tensor.contiguous()
