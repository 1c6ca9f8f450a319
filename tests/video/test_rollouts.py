"""Shifts of known pictures are found, and drift is 0 where nothing drifts."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch

from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.sampling.config import SamplingConfig
from vqaudio.video import rollouts
from vqaudio.video.crops import CodeSequences
from vqaudio.video.prior import VideoPrior
from vqaudio.video.rollouts import Rollouts, action_sensitivity, drift, horizontal_shift, roll_out


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
    assert rows[0]["psnr"] > 80 > rows[0]["psnr_static"]
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
    with pytest.raises(ValueError, match="count must lie in 1"):
        roll_out(prior, sequences, 3, 0, sampling)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        roll_out(prior, sequences, 0, 4, sampling)


class _Camera:
    """Stands for the model of the frames: a code is the column at which a camera sees a wide scene."""

    device = torch.device("cpu")
    scene = torch.randint(256, (3, 24, 400), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.scene[:, :, place : place + 48] for place in codes.flatten().tolist()])


REAL, IMAGINED = (-2, 2, 0), (-3, 5, 0)  # columns by which left, right and forward move the camera


def _pan(prompt: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """(B, N, 1, 1), (B, N) -> (B, 1, 1, 1): the last action moves the camera."""
    return (prompt[:, -1] + torch.tensor(IMAGINED)[actions[:, -1]][:, None, None])[:, None]


def test_sensitivity_to_actions_is_that_of_known_motion(prior: VideoPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scene moves against the camera: left, by 2 columns in truth and by 3 as imagined, moves it to the right."""
    monkeypatch.setattr(rollouts, "imagine", lambda _, prompt, actions, **options: _pan(prompt, actions))
    taken = torch.tensor([0, 0, 1, 0, 2, 1, 1, 0, 2, 0, 1])
    places = 200 + torch.cat([torch.zeros(1, dtype=torch.long), torch.tensor(REAL)[taken].cumsum(0)])
    sequences = CodeSequences(places[:, None, None], (taken,), 400)
    found = action_sensitivity(prior, cast(Any, _Camera()), sequences, 99, SamplingConfig())
    own = taken[1:]  # after contexts of two frames
    for index, name in enumerate(prior.cfg.actions):
        assert found[f"shift_{name}_real"] == -REAL[index]
        assert found[f"shift_{name}"] == found[f"shift_{name}_forced"] == -IMAGINED[index]
        assert found[f"shift_{name}_count"] == (own == index).sum()
    assert len(found) == 4 * 3 + 2
    real, mine, other = (
        torch.tensor(moves)[each].double() for moves, each in ((REAL, own), (IMAGINED, own), (IMAGINED, own.roll(5)))
    )
    assert found["shift_correlation"] == pytest.approx(float(torch.corrcoef(torch.stack([real, mine]))[0, 1]))
    shuffled = float(torch.corrcoef(torch.stack([real, other]))[0, 1])
    assert found["shift_correlation_shuffled"] == pytest.approx(shuffled) and abs(shuffled) < 0.5


def test_an_action_that_was_never_taken_has_no_shift_but_a_forced_one(
    prior: VideoPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "imagine", lambda _, prompt, actions, **options: _pan(prompt, actions))
    sequences = CodeSequences(200 - 2 * torch.arange(6)[:, None, None], (torch.zeros(5, dtype=torch.long),), 400)
    found = action_sensitivity(prior, cast(Any, _Camera()), sequences, 99, SamplingConfig())
    assert math.isnan(found["shift_right"]) and math.isnan(found["shift_right_real"])
    assert found["shift_right_count"] == 0 and found["shift_right_forced"] == -IMAGINED[1]
    assert math.isnan(found["shift_correlation"])  # of constants
