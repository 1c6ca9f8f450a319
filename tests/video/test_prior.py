"""A code depends on the frames, actions and positions before it, and on nothing else."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from vqaudio.video.prior import ContextEncoderConfig, VideoPrior, VideoPriorConfig

FRAMES, SIDE, K, N = 5, 4, 6, 2


def _example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(K, (2, FRAMES, SIDE, SIDE), generator=generator)
    return codes, torch.randint(3, (2, FRAMES - 1), generator=generator)


@torch.inference_mode()
def test_a_code_never_changes_an_earlier_logit_and_reaches_the_following_frames(prior: VideoPrior) -> None:
    codes, actions = _example()
    before = prior.logits(codes, actions)
    assert before.shape == (2, FRAMES - N, K, SIDE, SIDE)
    for frame in range(FRAMES):
        for row, column in ((0, 0), (1, 2), (3, 3)):
            changed = codes.clone()
            changed[0, frame, row, column] = (codes[0, frame, row, column] + 1) % K
            differs = (prior.logits(changed, actions) != before).any(2)
            assert not differs[1].any()  # another example
            place = row * SIDE + column
            for target in range(N, FRAMES):
                flat = differs[0, target - N].flatten()
                if target < frame or target > frame + N:  # the past of the code, or beyond the context
                    assert not flat.any()
                elif target == frame:
                    assert not flat[: place + 1].any() and flat[place + 1 :].all()
                else:
                    assert flat.any()


@torch.inference_mode()
def test_an_action_changes_every_logit_after_it_and_none_before(prior: VideoPrior) -> None:
    codes, actions = _example()
    before = prior.logits(codes, actions)
    for step in range(FRAMES - 1):
        changed = actions.clone()
        changed[0, step] = (actions[0, step] + 1) % 3
        differs = (prior.logits(codes, changed) != before).any(2)[0].flatten(1)
        for target in range(N, FRAMES):
            reached = step < target <= step + N
            assert differs[target - N].all() if reached else not differs[target - N].any()


def test_the_action_enters_every_layer(prior_config: VideoPriorConfig) -> None:
    prior = VideoPrior(prior_config)
    codes, actions = _example()
    prior(codes, actions)[0].backward()
    ways = [layer.get_submodule("action") for layer in prior.past.layers]
    assert all(way.get_parameter("weight").grad.abs().sum() > 0 for way in ways)  # pyright: ignore
    assert prior.net.project is not None and prior.net.project.weight.grad is not None
    of_layers = prior.net.project.weight.grad.view(len(prior.net.layers), -1).abs().sum(1)
    assert (of_layers > 0).all()


@torch.inference_mode()
def test_a_window_is_predicted_as_alone(prior: VideoPrior) -> None:
    codes, actions = _example()
    together = prior.nll(codes, actions)
    for target in range(N, FRAMES):
        alone = prior.nll(codes[:, target - N : target + 1], actions[:, target - N : target])
        torch.testing.assert_close(alone[:, 0], together[:, target - N])
    loss, logs = prior(codes, actions)
    torch.testing.assert_close(loss, together.mean() / SIDE**2)
    torch.testing.assert_close(logs["bits_per_code"], loss / math.log(2))
    assert torch.equal(prior.nll(codes, actions, codes), together)
    assert not torch.equal(prior.nll(codes, actions, (codes + 1) % K), together)  # the context is what is seen


def test_embeddings_start_from_the_codebook(prior: VideoPrior) -> None:
    own = copy.deepcopy(prior)
    codebook = torch.arange(K * 3.0).view(K, 3)
    own.initialise_embeddings(codebook)
    torch.testing.assert_close(own.past.embed.weight.float(), codebook / codebook.std())


def test_what_does_not_fit_is_explained(prior: VideoPrior, prior_config: VideoPriorConfig) -> None:
    codes, actions = _example()
    for wrong, message in (
        ((codes[:, :2], actions[:, :1]), r"codes must be \(B, T, 4, 4\) with T above the 2 context frames"),
        ((codes[..., :3], actions), r"codes must be \(B, T, 4, 4\)"),
        ((codes[0, 0, 0], actions), r"codes must be \(B, T, 4, 4\) .* got \(4,\)"),
        (
            (codes, actions, codes[:, 1:]),
            r"context_codes must have the shape of codes, \(2, 5, 4, 4\), got \(2, 4, 4, 4\)",
        ),
        ((codes, actions[:, 1:]), r"actions must be \(2, 4\), one between frames, got \(2, 3\)"),
        ((codes + K, actions), "codes must lie in 0..5"),
        ((codes, actions + 2), "actions must lie in 0 to 2, got"),
    ):
        with pytest.raises(ValueError, match=message):
            prior.nll(*wrong)
    for options, message in (
        ({"map_shape": (4,)}, "map_shape must be two numbers of at least 1"),
        ({"actions": ("left", "left")}, "actions must be different names"),
        ({"context": 0}, "context and action_dim must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(prior_config, **options)
    for past, message in (
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"kernel_size": 2}, "kernel_size must be odd and at least 1, got 2"),
        ({"dilations": ()}, "dilations must all be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(ContextEncoderConfig(), **past)
