"""The shipped decoder, on its own codes: the compiled samples are those of the reference loop."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vqaudio
from vqaudio.kernels.library import kernels, why_missing
from vqaudio.sampling import choose, generate, reference
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.logits import uniforms
from vqaudio.speech.acoustic import decoder_conditioning

SPEECH = Path(__file__).parents[2] / "egs/mini/wav16/flite_slt/flite_slt_012.flac"
STEPS = 640  # more than the receptive field of 511


@pytest.mark.slow
@pytest.mark.skipif(kernels() is None, reason=why_missing())
def test_samples_of_the_shipped_decoder(assert_same_or_tie: Callable[..., None]) -> None:
    model = vqaudio.load_model("mini")
    start = round(0.8 * model.frame_rate)  # in the middle of speech
    codes, speaker = model.tokenize(SPEECH).codes[start:], torch.tensor([model.speaker_id("p225")])
    codes = codes[: -(-STEPS // model.hop)]
    with torch.no_grad():
        cond = decoder_conditioning(model, model.quantizer.decode(codes[None]), speaker, STEPS)
    inputs = {"cond": cond, "speaker": speaker}
    expected = reference.generate(model.decoder, cond, speaker, steps=STEPS)
    uniform = uniforms(1, STEPS, torch.Generator().manual_seed(0))
    for threads in (1, 2):
        sampling = SamplingConfig(threads=threads)
        assert choose(model.decoder, sampling).name.startswith("compiled")
        chosen = generate(model.decoder, cond, speaker, steps=STEPS, sampling=sampling)
        assert len(chosen.unique()) > 50
        assert_same_or_tie(model.decoder, inputs, chosen, expected, uniform)
