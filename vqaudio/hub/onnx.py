"""Exports the encoder of a speech model to ONNX: one chunk of audio and the state before it -> codes and next state.

Letters: N frames of a chunk, T samples of a chunk (N * hop), W window length, F mel bands, D code width.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vqaudio.atomic import atomic_file, check_output_folder
from vqaudio.hub.onnx_tokenizer import FILE, FORMAT, KEY
from vqaudio.nn.mel import MelFilterbank
from vqaudio.nn.vector_quantizer import VectorQuantizer, nearest_in_pytorch
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.torch_defaults import with_own_defaults

OPSET = 20
CHUNK_FRAMES = 64  # of an exported encoder unless another number is given
MAX_CHUNK_FRAMES = 4096  # more is a mistake


class ChunkEncoder(nn.Module):
    """Encoder with front-end, normaliser and nearest code, for one chunk of one stream, in operations that ONNX has.

    The caller leaves out the first `lookahead` samples of an utterance, adds zeros after its end, and passes the state
    on, as `Encoder` does. Powers of mel bands and distances to codes are computed in float64.
    """

    def __init__(self, model: SpeechVQVAE):
        super().__init__()
        model = copy.deepcopy(model).cpu()
        self.encoder, self.normalizer, self.quantizer = model.encoder, model.normalizer, model.quantizer
        if self.encoder.frontend is not None:  # ONNX has no such Fourier transform
            object.__setattr__(self.encoder.frontend, "power", _FourierPower(self.encoder.frontend))
        self.num_frontend_states = len(self.start()[0])

    def start(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The states before an utterance: of the front-end, and of each convolution."""
        state = self.encoder.start()
        return state.frontend, state.pasts

    def forward(self, wav: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Advanced samples (1, 1, T) in [-1, 1], state -> codes (1, N) int64, next state."""
        frontend, pasts = state[: self.num_frontend_states], state[self.num_frontend_states :]
        z, frontend, pasts = self.encoder.chunk(wav, frontend, pasts)
        z = self.normalizer(z)
        if isinstance(self.quantizer, VectorQuantizer):  # in float64, for the same code as the compiled search
            rows = rearrange(self.quantizer.directed(z).double(), "1 d n -> n d")
            codes = nearest_in_pytorch(rows, self.quantizer.vectors.double())[None]
        else:
            codes = self.quantizer.encode(z)
        return (codes, *frontend, *pasts)


class _FourierPower(nn.Module):
    """As `MelFilterbank.power` in evaluation mode, with the Fourier transform as a matrix product, in float64."""

    basis: Tensor  # (W, 2 * FFT bins): cosines and sines, times the window
    bank: Tensor  # (FFT bins, F)

    def __init__(self, mel: MelFilterbank):
        super().__init__()
        self.width, self.hop, self.past_length = mel.cfg.win_length, mel.cfg.hop_length, mel.past_length
        bins = torch.arange(mel.size // 2 + 1)
        turns = (torch.arange(self.width)[:, None] * bins % mel.size).double() / mel.size  # (W, FFT bins)
        basis = torch.cat([torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)], dim=1)
        self.register_buffer("basis", mel.window.double()[:, None] * basis)
        self.register_buffer("bank", mel.banks[0].double())

    def forward(self, wav: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(1, T, 1), (1, past_length, 1) -> (1, N, F) float32, next past."""
        wav = torch.cat([past, wav], dim=1)
        count = (wav.shape[1] - self.width) // self.hop + 1
        positions = torch.arange(count)[:, None] * self.hop + torch.arange(self.width)
        frames = wav[:, :, 0][:, positions].double()  # (1, N, W)
        real, imaginary = (frames @ self.basis).chunk(2, dim=2)
        mel = (real.square() + imaginary.square()) @ self.bank
        return mel.float(), wav[:, wav.shape[1] - self.past_length :]


@with_own_defaults
@torch.inference_mode()
def export_onnx(
    model: SpeechVQVAE, folder: str | Path, *, chunk_frames: int = CHUNK_FRAMES, overwrite: bool = False
) -> Path:
    """Writes the encoder to `folder`/encoder.onnx, for `OnnxTokenizer` or any other program, and returns the path.

    All shapes are static: the file encodes chunks of `chunk_frames` codes. Its metadata (key `vqaudio`, JSON) hold
    the model's fingerprint and what a program needs to call it. Raises ValueError for a number of frames out of range,
    ModuleNotFoundError without onnx and onnxscript, and OSError if the file exists or cannot be written.
    """
    if not 1 <= chunk_frames <= MAX_CHUNK_FRAMES:
        raise ValueError(f"chunk_frames must lie in 1..{MAX_CHUNK_FRAMES}, got {chunk_frames}")
    if any(find_spec(name) is None for name in ("onnx", "onnxscript")):
        raise ModuleNotFoundError("exporting to ONNX needs onnx and onnxscript: pip install 'vqaudio[hub]'")
    path = Path(folder) / FILE
    check_output_folder(path.parent, [FILE], overwrite)
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript.optimizer import fold_constants, remove_unused_nodes

    encoder = ChunkEncoder(model).eval()
    state = [tensor for part in encoder.start() for tensor in part]
    names = [f"state_{i}" for i in range(len(state))]
    with _quiet():
        program = torch.onnx.export(
            encoder,
            (torch.zeros(1, 1, chunk_frames * model.hop), *state),
            input_names=["wav", *names],
            output_names=["codes", *(f"next_{name}" for name in names)],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            optimize=False,  # the whole optimiser takes + 1e-10 for + 0 and drops it
            custom_translation_table=_translations(),
        )
    assert program is not None
    fold_constants(program.model)
    remove_unused_nodes(program.model)
    ClearMetadataAndDocStringPass()(program.model)  # traces with paths of this machine
    program.model.metadata_props[KEY] = json.dumps(
        {
            "format": FORMAT,
            "fingerprint": model.fingerprint,
            "sample_rate": model.sample_rate,
            "hop": model.hop,
            "lookahead": model.cfg.encoder.lookahead,
            "chunk_frames": chunk_frames,
            "codebook_size": model.codebook_size,
            "opset": program.model.opset_imports[""],
            "initial_state": [_only_value(tensor) for tensor in state],
        }
    )
    with atomic_file(path, overwrite=overwrite) as temporary:
        program.save(temporary, external_data=False)
    return path


def _only_value(tensor: Tensor) -> float:
    """The value that all elements of an initial state have, 0 for an empty one."""
    values = set(tensor.flatten().tolist()) or {0.0}
    assert len(values) == 1, "the metadata hold one initial value for each state"
    return values.pop()


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """ONNX forms of operations that the exporter does not support."""
    from onnxscript import opset20

    op: Any = opset20

    def cummax(x: Any, dim: int) -> Any:
        """Largest value so far along the last axis of (1, N): in each round, the one 1, 2, 4, ... places before."""
        assert dim in (1, -1)
        shift, length = 1, x.shape[1]
        while shift < length:
            padding = op.Constant(value_ints=[0, shift, 0, 0])
            earlier = op.Pad(x, padding, op.CastLike(op.Constant(value_float=-math.inf), x))
            start, end, axis = (op.Constant(value_ints=[value]) for value in (0, length, 1))
            earlier = op.Slice(earlier, start, end, axis)
            x, shift = op.Max(x, earlier), 2 * shift
        return x, op.Cast(x, to=7)  # the indices are not used

    return {torch.ops.aten.cummax.default: cummax}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings about packages that are not installed, and about its own code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
