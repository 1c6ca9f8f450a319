"""What the compiled decoder's precisions cost on real speech with the shipped model, in bits per sample."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import vqaudio
from vqaudio.data.audio import read_audio
from vqaudio.data.mulaw import mulaw_encode
from vqaudio.kernels.library import kernels
from vqaudio.kernels.precision import Precision
from vqaudio.sampling.compiled import open_compiled
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.acoustic import decoder_conditioning

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "vctk_mini"
STEPS = 8000  # half a second of each utterance: many times the receptive field

pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent; set VQAUDIO_DATA to the folder of vctk_mini"),
    pytest.mark.skipif(kernels() is None, reason="the compiled kernels are not here"),
]


@pytest.fixture(scope="module")
def model() -> vqaudio.SpeechVQVAE:
    return vqaudio.load_model("mini")


@pytest.fixture(scope="module")
def speech(model: vqaudio.SpeechVQVAE) -> tuple[Tensor, Tensor]:
    """The middles of some utterances (B, T), and whose they are (B,)."""
    wavs, speakers = [], []
    for path in sorted(DATA.glob("wav16/*/*.flac"))[::29]:
        wav = read_audio(path, model.sample_rate)
        if path.parent.name in model.speakers and len(wav) >= 3 * STEPS:
            middle = len(wav) // 2 - STEPS // 2
            wavs.append(torch.from_numpy(wav[middle : middle + STEPS]))
            speakers.append(model.speaker_id(path.parent.name))
    assert len(wavs) >= 8
    return torch.stack(wavs), torch.tensor(speakers)


@pytest.fixture(scope="module")
def cond(model: vqaudio.SpeechVQVAE, speech: tuple[Tensor, Tensor]) -> Tensor:
    """What the WaveNet is conditioned on."""
    wav, speaker = speech
    codes, _ = model.encode(wav[:, None])
    with torch.inference_mode():
        return decoder_conditioning(model, model.quantizer.decode(codes), speaker, STEPS)


@pytest.fixture(scope="module")
def whole_pass(model: vqaudio.SpeechVQVAE, speech: tuple[Tensor, Tensor], cond: Tensor) -> Tensor:
    """Logits (B, Q, T) of the parallel forward pass."""
    wav, speaker = speech
    target = mulaw_encode(wav, model.cfg.decoder.num_classes)
    with torch.inference_mode():
        return model.decoder(model.decoder.shift(target), cond, speaker)[0]


@pytest.mark.parametrize(("precision", "most_bits"), [("float32", 1e-5), ("bf16", 0.005), ("int8", 0.01)])
def test_bits_per_sample_hardly_differ(
    model: vqaudio.SpeechVQVAE,
    speech: tuple[Tensor, Tensor],
    cond: Tensor,
    whole_pass: Tensor,
    precision: Precision,
    most_bits: float,
) -> None:
    wav, speaker = speech
    streams, compiled = len(wav), kernels()
    assert compiled is not None
    target = mulaw_encode(wav, model.cfg.decoder.num_classes)
    logits = torch.zeros(streams, STEPS, model.cfg.decoder.num_classes)
    sampling = SamplingConfig(precision=precision, threads=2)
    opened = open_compiled(compiled, model.decoder, speaker, streams, sampling)
    opened.extend(
        cond,
        torch.zeros(streams, STEPS),
        torch.full((streams,), STEPS),
        teacher_forced=model.decoder.shift(target),
        logits=logits,
    )
    step_by_step = logits.transpose(1, 2)
    if precision == "float32":
        assert (step_by_step - whole_pass).abs().max() < 1e-5 * whole_pass.abs().max()
    bits = F.cross_entropy(step_by_step, target) / math.log(2)
    expected = F.cross_entropy(whole_pass, target) / math.log(2)
    assert 2 < expected < 5  # of a trained model on speech
    print(f"{precision}: {float(bits):.5f} bits per sample, {float(bits - expected):+.5f}")
    assert abs(bits - expected) < most_bits
