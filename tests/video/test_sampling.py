"""Imagining with caches equals the pass over everything."""

from __future__ import annotations

import pytest
import torch

from vqaudio.sampling.config import SamplingConfig
from vqaudio.video.prior import VideoPrior
from vqaudio.video.sampling import imagine, imagine_naive

K, SIDE = 6, 4


def _given(frames: int, steps: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(K, (batch, frames, SIDE, SIDE), generator=generator)
    return prompt, torch.randint(3, (batch, frames - 1 + steps), generator=generator)


@pytest.mark.parametrize("frames", [2, 4])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.6, "top_k": 3}, {"temperature": 0.0}], ids=str)
def test_cached_equals_naive(prior: VideoPrior, frames: int, options: dict) -> None:
    prompt, actions = _given(frames, 3)
    sampling = SamplingConfig(**options, seed=4)
    fast, slow = (make(prior, prompt, actions, sampling=sampling) for make in (imagine, imagine_naive))
    assert torch.equal(fast, slow)
    assert fast.shape == (3, 3, SIDE, SIDE)


def test_with_a_generator_each_a_clip_does_not_depend_on_its_neighbours(prior: VideoPrior) -> None:
    prompt, actions = _given(2, 2)
    together = imagine(prior, prompt, actions, generator=[torch.Generator().manual_seed(s) for s in range(3)])
    for row in range(3):
        own = [torch.Generator().manual_seed(row)]
        assert torch.equal(
            imagine(prior, prompt[row : row + 1], actions[row : row + 1], generator=own)[0], together[row]
        )


def test_frames_can_be_imagined_in_two_parts(prior: VideoPrior) -> None:
    prompt, actions = _given(2, 4)
    generator = torch.Generator().manual_seed(8)
    whole = imagine(prior, prompt, actions, sampling=SamplingConfig(seed=8))
    first = imagine(prior, prompt, actions[:, :3], generator=generator)
    second = imagine(prior, torch.cat([prompt, first], 1), actions, generator=generator)
    assert torch.equal(torch.cat([first, second], 1), whole)


def test_an_early_frame_depends_on_no_later_action(prior: VideoPrior) -> None:
    prompt, actions = _given(2, 4)
    changed = actions.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 3
    before, after = (imagine(prior, prompt, taken, sampling=SamplingConfig(seed=2)) for taken in (actions, changed))
    assert torch.equal(before[:, :-1], after[:, :-1])


def test_no_action_is_no_frame_and_what_does_not_fit_is_explained(prior: VideoPrior) -> None:
    prompt, actions = _given(3, 1)
    assert imagine(prior, prompt, actions[:, :2]).shape == (3, 0, SIDE, SIDE)
    with pytest.raises(
        ValueError, match="the prompt must have at least 2 frames, which this prior looks back to, got 1"
    ):
        imagine(prior, prompt[:, :1], actions)
    for wrong in (actions[:, :1], actions[:2], actions[0]):
        with pytest.raises(ValueError, match=r"actions must be \(3, 2 or more\)"):
            imagine(prior, prompt, wrong)
    for wrong in (prompt[0], prompt[..., :3]):
        with pytest.raises(ValueError, match=r"the prompt must be codes \(B, P, 4, 4\), got"):
            imagine(prior, wrong, actions)
    with pytest.raises(ValueError, match="actions must lie in 0 to 2"):
        imagine(prior, prompt, actions + 3)
