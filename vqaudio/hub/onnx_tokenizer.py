"""Audio to codes with an exported encoder, by onnxruntime and NumPy alone: PyTorch is not imported.

Letters: T samples, N codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from vqaudio.data.audio import check_scale

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILE = "encoder.onnx"
KEY = "vqaudio"  # of the metadata: a JSON object
FORMAT = 1  # of the metadata, the inputs and the outputs

Wav = npt.NDArray[np.floating]
Codes = npt.NDArray[np.int64]


class OnnxTokenizer:
    """An encoder as `vqaudio export onnx` writes it."""

    sample_rate: int  # Hz
    hop: int  # samples per code
    lookahead: int  # samples that a code depends on beyond its own
    chunk_frames: int  # codes that are computed at once
    codebook_size: int
    fingerprint: str  # of the model that was exported
    opset: int

    def __init__(self, path: str | Path, *, threads: int = 1):
        """path: the file, or the folder that it is in. threads: of onnxruntime.

        Raises FileNotFoundError, ValueError for a file that vqaudio did not export or that is damaged, and
        ModuleNotFoundError without onnxruntime.
        """
        path = Path(path)
        self.path = path / FILE if path.is_dir() else path
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no {self.path}; vqaudio export onnx MODEL --out DIR creates it")
        self.session = _session(self.path, threads)
        facts = json.loads(self.session.get_modelmeta().custom_metadata_map.get(KEY, "{}"))
        if facts.get("format") != FORMAT:
            raise ValueError(
                f"{self.path} was not exported by this version of vqaudio: its metadata have format "
                f"{facts.get('format')!r}, expected {FORMAT}; export the model again"
            )
        self.sample_rate, self.hop, self.lookahead = facts["sample_rate"], facts["hop"], facts["lookahead"]
        self.chunk_frames, self.codebook_size = facts["chunk_frames"], facts["codebook_size"]
        self.fingerprint, self.opset = facts["fingerprint"], facts["opset"]
        states = self.session.get_inputs()[1:]
        self.initial_state = {
            each.name: np.full(each.shape, value, np.float32)
            for each, value in zip(states, facts["initial_state"], strict=True)
        }

    def encode(self, wav: Wav) -> Codes:
        """A whole utterance (T,) in [-1, 1] at `sample_rate`, T at least 1 -> codes (N,), N = ceil(T / hop)."""
        if not len(wav):
            raise ValueError("an utterance must have at least one sample, got none")
        return np.concatenate(list(self.encode_stream([wav])))

    def encode_stream(self, pieces: Iterable[Wav]) -> Iterator[Codes]:
        """Consecutive pieces (T,) of an utterance, of any lengths -> its codes, a chunk at a time.

        The codes do not depend on how the utterance is divided: every chunk has the same shape. Raises ValueError for
        pieces of another shape or type, and for values that are not finite or at the scale of integers.
        """
        state, size = self.initial_state, self.chunk_frames * self.hop
        pending, to_skip, num_samples, num_codes = np.zeros(0, np.float32), self.lookahead, 0, 0
        for piece in pieces:
            piece = _checked(piece)
            num_samples += len(piece)
            skipped = min(to_skip, len(piece))
            to_skip -= skipped
            pending = np.concatenate([pending, piece[skipped:]])
            while len(pending) >= size:
                codes, state = self.encode_chunk(pending[:size], state)
                pending, num_codes = pending[size:], num_codes + len(codes)
                yield codes
        total = -(-num_samples // self.hop)
        while num_codes < total:
            chunk, pending = pending[:size], pending[size:]
            codes, state = self.encode_chunk(np.pad(chunk, (0, size - len(chunk))), state)
            yield codes[: total - num_codes]
            num_codes += len(codes)

    def encode_chunk(
        self, wav: Wav, state: dict[str, npt.NDArray[np.float32]]
    ) -> tuple[Codes, dict[str, npt.NDArray[np.float32]]]:
        """A chunk (chunk_frames * hop,) of advanced samples, state -> codes (chunk_frames,), next state."""
        inputs = {"wav": wav[None, None].astype(np.float32), **state}
        codes, *states = cast(list[Any], self.session.run(None, inputs))
        return codes[0], dict(zip(state, states, strict=True))


def _session(path: Path, threads: int) -> InferenceSession:
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import (
            Fail,
            InvalidArgument,
            InvalidGraph,
            InvalidProtobuf,
            NoSuchFile,
        )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("running an ONNX file needs onnxruntime: pip install 'vqaudio[hub]'") from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        raise ValueError(f"{path} is damaged or no ONNX file ({error}); export the model again") from error


def _checked(piece: Wav) -> Wav:
    piece = np.asarray(piece)
    if piece.ndim != 1 or not np.issubdtype(piece.dtype, np.floating) or not np.isfinite(piece).all():
        raise ValueError(
            f"a waveform must be (T,), floating-point in [-1, 1] and finite, got {piece.shape} {piece.dtype}; "
            "mix down, scale or clean the audio first"
        )
    if piece.size:
        check_scale(float(np.abs(piece).max()))
    return piece.astype(np.float32, copy=False)
