"""The checks of what `vqaudio export` wrote: exported files compute the codes of the model."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import torch

from vqaudio.checkpoint import load_model
from vqaudio.hub.hf import CODE, check_transformers, no_progress_bar
from vqaudio.hub.onnx_tokenizer import OnnxTokenizer
from vqaudio.verify.checks import Check, CheckError
from vqaudio.verify.speech_model import BATCH, Subject, assert_equal

MOST_DIFFERENT = 1e-3  # fraction of the codes that an ONNX file may round to another code; 0 is usual


def checks_of_exports(subject: Subject, onnx: Path | None, hf: Path | None) -> list[Check]:
    """The checks of an ONNX file, or the folder that it is in, and of a Hugging Face folder, as far as given."""
    checks = []
    if onnx is not None:
        checks.append(Check("ONNX = PyTorch", functools.partial(onnx_is_pytorch, subject, onnx)))
    if hf is not None:
        checks.append(Check("transformers = model", functools.partial(transformers_is_model, subject, hf)))
    return checks


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


def transformers_is_model(subject: Subject, folder: Path) -> str:
    """The folder holds this model and the code of this vqaudio; in transformers, batches have the model's codes.

    The code in the folder is compared, not run.
    """
    load_model(folder)  # it is a model folder of vqaudio, too, and damage has a message here
    check_transformers()
    from vqaudio.hub import modeling_vqaudio
    from vqaudio.hub.modeling_vqaudio import VQAudioFeatureExtractor, VQAudioModel

    if (folder / CODE).read_bytes() != Path(modeling_vqaudio.__file__).read_bytes():
        raise CheckError(f"{folder / CODE} is not the file of this vqaudio; export the model again")
    with no_progress_bar():
        model, extractor = VQAudioModel.from_pretrained(folder), VQAudioFeatureExtractor.from_pretrained(folder)
    for name, found in {"weights": model.vqvae.fingerprint, "config.json": model.config.fingerprint}.items():
        if found != subject.model.fingerprint:
            raise CheckError(
                f"the {name} of {folder} are those of model {found}, this is model {subject.model.fingerprint}; export "
                "this model, or name the other one"
            )
    weights = model.vqvae.state_dict()
    for name, weight in subject.model.state_dict().items():
        if name in subject.model.untrained_weights:  # random in every model that is loaded
            continue
        if not torch.equal(weights[name], weight.cpu()):
            raise CheckError(f"{name} in {folder} differs from that of this model; export it again")
    for start in range(0, len(subject.utterances), BATCH):
        batch, expected = subject.utterances[start : start + BATCH], subject.codes[start : start + BATCH]
        wavs = [each.wav.numpy() for each in batch]
        inputs = extractor(wavs, sampling_rate=subject.model.sample_rate, return_tensors="pt")
        found = model.encode(**inputs)
        valid = found.audio_codes_mask[:, 0].bool()
        for each, row, mask, alone in zip(batch, found.audio_codes[:, 0], valid, expected, strict=True):
            assert_equal(each, row[mask], alone.cpu(), "by transformers, in a batch")
    return subject.summary
