"""The head of the unit objective: losses equal a plain loop over codes and offsets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from vqaudio.nn.units import NO_TARGET, UnitHead, UnitsConfig

CFG = UnitsConfig(num_clusters=5, num_cepstra=3, channels=6, cluster_offsets=(-2, 0, 1), cepstrum_offsets=(-1, 0, 1, 3))


def _targets(rows: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    count = frames + 2 * CFG.margin
    return torch.randint(CFG.num_clusters, (rows, count)), torch.randn(rows, count, CFG.num_cepstra)


def test_losses_are_those_of_a_loop(randomise) -> None:
    head = randomise(UnitHead(CFG, 4, 2, 320))
    z_q, speaker, mask = torch.randn(2, 4, 3), torch.randn(2, 2), torch.tensor([[True] * 3, [True, True, False]])
    units, cepstra = _targets(2, 6)
    units[0, :4] = units[1, -2:] = NO_TARGET  # before the start of an utterance, and after the end of another
    logits, predicted = head(z_q, speaker)
    nats, errors, counts = torch.zeros(2), torch.zeros(2), torch.zeros(2, 2)
    for row in range(2):
        for frame in range(6):
            if not mask[row, frame // 2]:
                continue
            for o, offset in enumerate(CFG.cluster_offsets):
                if (wanted := units[row, CFG.margin + frame + offset]) != NO_TARGET:
                    nats[row] += F.cross_entropy(logits[row, frame, o], wanted)
                    counts[0, row] += 1
            for o, offset in enumerate(CFG.cepstrum_offsets):
                if units[row, CFG.margin + frame + offset] != NO_TARGET:
                    target = cepstra[row, CFG.margin + frame + offset]
                    errors[row] += (predicted[row, frame, o] - target).square().mean()
                    counts[1, row] += 1
    found = head.losses(z_q, speaker, mask, units, cepstra)
    torch.testing.assert_close(found.cross_entropy, nats)
    torch.testing.assert_close(found.squared_error, errors)
    assert torch.equal(torch.stack([found.num_clusters, found.num_cepstra]), counts.long())
    assert counts.min() > 0 and counts.max() < 24


def test_a_code_predicts_its_own_frames_alone(randomise) -> None:
    head = randomise(UnitHead(CFG, 4, 0, 320))
    z_q = torch.randn(1, 4, 3)
    changed = z_q.clone()
    changed[:, :, 1] += 1
    for before, after in zip(head(z_q), head(changed), strict=True):
        same = (before == after).flatten(2).all(2)[0]
        assert same.tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 0}, "at least 1"),
        ({"num_clusters": 2**15}, "below 32768"),
        ({"num_cepstra": 81}, "at most n_mels"),
        ({"cluster_offsets": ()}, "at least one frame"),
        ({"cluster_weight": 0.0, "cepstrum_weight": 0.0}, "not both 0"),
        ({"cepstrum_weight": float("nan")}, "finite numbers"),
    ],
)
def test_bad_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnitsConfig(**options)
