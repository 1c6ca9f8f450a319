"""bits_by_speaker equals the cross-entropy of the conditioning metrics, for any speaker."""

import pytest
import torch
from torch import Tensor

from vqaudio import SpeechVQVAE
from vqaudio.metrics.conditioning_gap import conditioning_metrics
from vqaudio.speech.acoustic import quantized_vectors
from vqaudio.speech.speaker_bits import bits_by_speaker


@pytest.fixture
def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        {
            "wav": torch.rand(2, 1, 200, generator=generator) - 0.5,
            "target": torch.randint(16, (2, 200), generator=generator),
            "speaker": torch.full((2,), 1),
            "lengths": torch.tensor(lengths),
        }
        for lengths in ([200, 150], [96, 200])
    ]


def test_the_bits_equal_those_of_the_conditioning_metrics(
    tiny_model: SpeechVQVAE, batches: list[dict[str, Tensor]]
) -> None:
    bits = bits_by_speaker(tiny_model, batches, [2, 0, 1])
    for speaker, value in zip([2, 0, 1], bits, strict=True):
        changed = [{**batch, "speaker": torch.full((2,), speaker)} for batch in batches]
        assert value == pytest.approx(conditioning_metrics(tiny_model, changed)["bits_per_sample"], abs=1e-5)
    assert len(set(bits)) == 3


def test_quantized_vectors_are_those_of_inference(tiny_model: SpeechVQVAE, batches: list[dict[str, Tensor]]) -> None:
    wav = batches[0]["wav"]
    codes, _ = tiny_model.encode(wav)
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantized_vectors(tiny_model, wav)
    assert torch.equal(quantized, tiny_model.quantizer.decode(codes))


def test_no_batch_and_training_mode_are_refused(tiny_model: SpeechVQVAE) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        bits_by_speaker(tiny_model, [], [0])
    tiny_model.train()
    try:
        with pytest.raises(RuntimeError, match="training mode"):
            bits_by_speaker(tiny_model, [], [0])
    finally:
        tiny_model.eval()
