"""The checks of what `vqaudio export` wrote: exported files compute the codes of the model."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np

from vqaudio.hub.onnx_tokenizer import OnnxTokenizer
from vqaudio.verify.checks import Check, CheckError
from vqaudio.verify.speech_model import Subject

MOST_DIFFERENT = 1e-3  # fraction of the codes that an ONNX file may round to another code; 0 is usual


def checks_of_exports(subject: Subject, onnx: Path | None) -> list[Check]:
    """The checks of an ONNX file, or the folder that it is in, if there is one."""
    return [Check("ONNX = PyTorch", functools.partial(onnx_is_pytorch, subject, onnx))] if onnx else []


def onnx_is_pytorch(subject: Subject, path: Path) -> str:
    """The file belongs to this model and gives its codes, and the same codes in pieces."""
    tokenizer, fingerprint = OnnxTokenizer(path), subject.model.fingerprint
    if tokenizer.fingerprint != fingerprint:
        raise CheckError(
            f"{tokenizer.path} was exported from model {tokenizer.fingerprint}, this is model {fingerprint}; export "
            "this model, or name the other one"
        )
    different = total = 0
    for each, expected in zip(subject.utterances, subject.codes, strict=True):
        wav = each.wav.numpy()
        found = tokenizer.encode(wav)
        cuts = list(itertools.accumulate([1, tokenizer.hop + 1, 5003]))
        if not np.array_equal(np.concatenate(list(tokenizer.encode_stream(np.split(wav, cuts)))), found):
            raise CheckError(
                f"{each.name}: {tokenizer.path} gives other codes in a stream than for the whole utterance"
            )
        different, total = different + int((found != expected.numpy()).sum()), total + len(expected)
    if different > max(1, total * MOST_DIFFERENT):
        raise CheckError(f"{different} of {total} codes of {tokenizer.path} differ from the model's; export it again")
    return f"{subject.summary}, {different} differ; opset {tokenizer.opset}"
