import pytest
import torch

from vqaudio.nn.regularizers import jitter, noisy_past, replace_inputs


def test_jitter_replaces_frames_with_the_given_probability() -> None:
    frames = torch.arange(1000.0).expand(8, 3, 1000)
    step = jitter(frames, 0.12) - frames  # (8, 3, 1000)
    assert torch.equal(step[:, 0], step[:, 1])  # whole frames move
    inner = step[:, 0, 1:-1]
    assert set(inner.unique().tolist()) == {-1, 0, 1}
    for direction in (-1, 1):
        assert (inner == direction).float().mean() == pytest.approx(0.06, abs=0.015)


def test_the_ends_have_one_neighbour() -> None:
    frames = torch.arange(4.0).view(1, 1, 4)
    moved = jitter(frames.expand(200, 1, 4), 1.0)[:, 0]
    assert set(moved[:, 0].tolist()) == {1} and set(moved[:, -1].tolist()) == {2}
    assert set(moved[:, 1].tolist()) == {0, 2}
    assert jitter(torch.ones(2, 3, 1), 1.0).tolist() == torch.ones(2, 3, 1).tolist()


def test_jitter_0_is_the_identity_and_gradients_go_to_the_copied_frame() -> None:
    frames = torch.arange(50.0).repeat(2, 3, 1).requires_grad_()
    assert torch.equal(jitter(frames, 0.0), frames)
    jittered = jitter(frames, 0.5)
    jittered.sum().backward()
    times = torch.stack([row.long().bincount(minlength=50) for row in jittered[:, 0].detach()])  # (2, 50)
    assert frames.grad is not None and times.max() > 1
    assert torch.equal(frames.grad, times[:, None].expand(2, 3, 50).float())


@pytest.mark.parametrize("by", [None, 10])
def test_steps_are_replaced_with_the_given_probability(by) -> None:
    x = torch.full((4, 5000), 3)
    out = replace_inputs(x, 0.3, by, num_classes=10)
    changed = out[out != x]
    expected = 0.3 if by else 0.27  # at random, one in ten stays what it was
    assert len(changed) / x.numel() == pytest.approx(expected, abs=0.02)
    assert set(changed.tolist()) == ({10} if by else set(range(10)) - {3})
    assert torch.equal(replace_inputs(x, 0.0, by, num_classes=10), x)


def test_the_past_is_noisy_by_a_deviation_of_each_row() -> None:
    """Classes stay classes, the start class stays, and rows have deviations between 0 and the largest."""
    torch.manual_seed(0)
    x = torch.full((200, 400), 128)
    x[:, 0] = 256
    noisy = noisy_past(x, 4.0, 256)
    assert (noisy[:, 0] == 256).all() and noisy.min() >= 0 and noisy[:, 1:].max() <= 255
    deviations = (noisy - x)[:, 1:].float().std(1)
    assert deviations.max() < 4.5 and deviations.min() < 0.5 and 1.7 < deviations.mean() < 2.3
    assert (noisy - x)[:, 1:].float().mean().abs() < 0.1
    edges = noisy_past(torch.tensor([[0, 255]]).repeat(500, 1), 4.0, 256)
    assert edges.min() == 0 and edges.max() == 255
