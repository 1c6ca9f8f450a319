import copy

import pytest
import torch

from vqaudio.metrics import conditioning_gap as module
from vqaudio.metrics.conditioning_gap import conditioned_nll, conditioning_metrics, gap_estimates, gap_metrics
from vqaudio.speech.model import SpeechVQVAE


def _batches(model: SpeechVQVAE, samples: int = 160) -> list[dict[str, torch.Tensor]]:
    noise = torch.Generator().manual_seed(0)
    return [
        {
            "wav": torch.rand(3, 1, samples, generator=noise) - 0.5,
            "target": torch.randint(model.cfg.decoder.num_classes, (3, samples), generator=noise),
            "speaker": torch.tensor([0, 1, 0]),
            "lengths": torch.tensor([samples, samples // 2 + 3, samples]),
        }
        for _ in range(2)
    ]


@pytest.mark.parametrize("most", [1, 320, 1000])
def test_what_the_decoder_takes_at_once_changes_nothing(tiny_model: SpeechVQVAE, monkeypatch, most: int) -> None:
    expected = conditioning_metrics(tiny_model, _batches(tiny_model))
    monkeypatch.setattr(module, "MAX_SAMPLES", most)
    assert conditioning_metrics(tiny_model, _batches(tiny_model)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_decoder_that_ignores_its_codes_has_no_gap(tiny_model: SpeechVQVAE) -> None:
    listening = conditioning_metrics(tiny_model, _batches(tiny_model))
    ignoring = copy.deepcopy(tiny_model)
    ignoring.decoder.condition.weight.data.zero_()  # pyright: ignore[reportOptionalMemberAccess]
    found = conditioning_metrics(ignoring, _batches(ignoring))
    assert found["conditioning_gap"] == pytest.approx(0, abs=1e-6) and found["conditioning_gap_mean"] == pytest.approx(
        0, abs=1e-6
    )
    assert abs(listening["conditioning_gap"]) > 1e-4 and abs(found["speaker_gap"]) > 1e-6


def test_a_batch_needs_at_least_two_utterances(tiny_model: SpeechVQVAE) -> None:
    (batch, *_) = _batches(tiny_model)
    with pytest.raises(ValueError, match="at least 2 utterances"):
        conditioning_metrics(tiny_model, [{name: value[:1] for name, value in batch.items()}])
    with pytest.raises(ValueError, match="no batch"):
        conditioning_metrics(tiny_model, [])
    with pytest.raises(RuntimeError, match="training mode"):
        conditioning_metrics(copy.deepcopy(tiny_model).train(), [batch])


def test_estimates_are_the_summary_with_intervals_over_utterances(tiny_model: SpeechVQVAE) -> None:
    nll = conditioned_nll(tiny_model, _batches(tiny_model))
    found, whole = gap_estimates(nll), gap_metrics(nll)
    assert nll.nats.shape == (4, 6)
    for name in ("bits_per_sample", "conditioning_gap", "conditioning_gap_mean", "speaker_gap"):
        assert found[name].value == pytest.approx(whole[name], abs=1e-5) and found[name].count == 6
        assert found[name].low < found[name].value < found[name].high


def test_a_single_speaker_has_no_speaker_gap(tiny_model: SpeechVQVAE) -> None:
    alone = [{**batch, "speaker": torch.zeros(3, dtype=torch.long)} for batch in _batches(tiny_model)]
    assert "speaker_gap" not in conditioning_metrics(tiny_model, alone)
    assert "speaker_gap" not in gap_estimates(conditioned_nll(tiny_model, alone))
