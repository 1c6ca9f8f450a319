"""Shifts of known pictures are found, and drift is 0 where nothing drifts."""

from __future__ import annotations

import pytest
import torch

from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.sampling.config import SamplingConfig
from vqaudio.video.behaviour import Rollouts, action_sensitivity, drift, horizontal_shift, roll_out
from vqaudio.video.crops import CodeSequences
from vqaudio.video.prior import VideoPrior


@pytest.mark.parametrize("shift", [-9, -2, 0, 1, 5])
def test_a_shift_is_found(shift: int) -> None:
    wide = torch.randint(256, (2, 3, 20, 80), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    before, after = wide[..., 20:60], wide[..., 20 - shift : 60 - shift]
    assert horizontal_shift(before, after).tolist() == [shift, shift]


def test_frames_without_structure_or_likeness_have_no_shift() -> None:
    flat = torch.full((1, 3, 8, 40), 9, dtype=torch.uint8)
    noise = torch.randint(256, (2, 3, 30, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert horizontal_shift(flat, flat).isnan().all()
    assert horizontal_shift(noise[:1], noise[1:]).isnan().all()


def test_real_frames_do_not_drift(frame_model: ImageVQVAE, sequences: CodeSequences) -> None:
    codes = sequences.codes[10:18].long()[None]
    rows = drift(Rollouts(codes, codes, codes[:, 0], torch.zeros(1, 8)), frame_model, codes)
    assert [(row["first_step"], row["last_step"]) for row in rows] == [(1, 8)]
    assert rows[0]["code_distance"] == rows[0]["code_distance_real"] == pytest.approx(0)
    assert rows[0]["perplexity"] == rows[0]["perplexity_real"] > 2
    assert rows[0]["psnr"] > 80 > rows[0]["psnr_still"]
    one = drift(Rollouts(codes, torch.zeros_like(codes), codes[:, 0], torch.zeros(1, 8)), frame_model, codes)
    assert one[0]["perplexity"] == pytest.approx(1) and one[0]["code_distance"] > 0.5


def test_rollouts_follow_the_context_and_the_actions(prior: VideoPrior, sequences: CodeSequences) -> None:
    sampling = SamplingConfig(seed=3)
    own = roll_out(prior, sequences, 3, 4, sampling)
    assert own.real.shape == own.imagined.shape == (4, 3, 4, 4) and own.actions.shape == (4, 3)
    assert torch.equal(own.last[0], sequences.codes[1]) and torch.equal(own.real[0], sequences.codes[2:5])
    assert torch.equal(roll_out(prior, sequences, 3, 4, sampling, own.actions).imagined, own.imagined)
    other = roll_out(prior, sequences, 3, 4, sampling, (own.actions + 1) % 3)
    assert not torch.equal(other.imagined, own.imagined) and torch.equal(other.real, own.real)
    with pytest.raises(ValueError, match="no episode has 22 frames"):
        roll_out(prior, sequences, 20, 4, sampling)


def test_sensitivity_names_every_action(prior: VideoPrior, frame_model: ImageVQVAE, sequences: CodeSequences) -> None:
    metrics = action_sensitivity(prior, frame_model, sequences, 5, SamplingConfig())
    expected = {f"shift_{name}{kind}" for name in prior.cfg.actions for kind in ("", "_real", "_forced", "_count")}
    assert metrics.keys() == expected | {"shift_correlation", "shift_correlation_shuffled"}
