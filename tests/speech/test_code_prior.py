"""The likelihood of codes is the same however it is computed, and that of a distribution."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vqaudio import load_model, save_model
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.prior import CodePrior, CodePriorConfig

NET = WaveNetConfig(
    num_classes=5, layers=4, layers_per_stack=2, residual_channels=6, skip_channels=8, cond_hidden_channels=6
)


@pytest.fixture
def prior(randomise: Callable[..., nn.Module]) -> CodePrior:
    made = CodePrior(CodePriorConfig(speakers=("anna", "bert"), model="abc", net=NET))
    randomise(made)
    made.net.out.weight.data *= 4
    made.net.embed.weight.data *= 4  # so that predictions depend on previous codes
    return made.eval().requires_grad_(False)


def _batch(lengths: list[int]) -> tuple[Tensor, Tensor]:
    codes = torch.randint(5, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    return codes * (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]), torch.tensor(lengths)


def test_padding_and_neighbours_change_no_likelihood(prior: CodePrior) -> None:
    codes, lengths = _batch([9, 4, 1, 7])
    speaker = torch.tensor([0, 1, 2, 1])
    together = prior.nll(codes, speaker, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = prior.nll(codes[i : i + 1, :length], speaker[i : i + 1], lengths[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1])


def test_streamed_in_pieces_it_is_the_same(prior: CodePrior) -> None:
    codes, lengths = _batch([12, 12])
    speaker = torch.tensor([0, 2])
    shifted, state, logits = prior.net.shift(codes), None, []
    for piece in shifted.split([1, 4, 2, 5], dim=1):
        part, state = prior.net(piece, None, speaker, state)
        logits.append(part)
    streamed = nn.functional.cross_entropy(torch.cat(logits, 2), codes, reduction="none").sum(1)
    torch.testing.assert_close(streamed, prior.nll(codes, speaker, lengths))


def test_the_probabilities_of_all_sequences_sum_to_one(prior: CodePrior) -> None:
    every = torch.tensor(list(itertools.product(range(5), repeat=3)))
    for speaker in range(3):
        nats = prior.nll(every, torch.full((125,), speaker), torch.full((125,), 3)).double()
        assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_the_loss_of_parts_averaged_is_that_of_the_joint_batch(prior: CodePrior) -> None:
    codes, lengths = _batch([9, 4, 1, 7])
    speaker = torch.tensor([0, 1, 2, 1])
    joint, _ = prior(codes, speaker, lengths)
    halves = [prior(codes[s], speaker[s], lengths[s])[0] for s in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(halves).mean(), joint)


def test_speaker_dropout_is_applied_in_training_only(prior: CodePrior) -> None:
    codes, lengths = _batch([6] * 64)
    speaker = torch.zeros(64, dtype=torch.long)
    plain, _ = prior(codes, speaker, lengths)
    assert torch.equal(prior(codes, speaker, lengths)[0], plain)
    prior.train()
    torch.manual_seed(0)
    some, _ = prior(codes, speaker, lengths)
    assert not torch.equal(some, plain)


def test_samples_follow_the_speaker_and_the_prompt(prior: CodePrior, tmp_path: Path) -> None:
    def drawn(names: list[str | None], prompt: Tensor | None = None) -> Tensor:
        return prior.sample(40, names, prompt, generator=[torch.Generator().manual_seed(3) for _ in names])

    found = drawn(["anna", "bert", None])
    assert found.shape == (3, 40)
    assert torch.equal(drawn(["bert"]), found[1:2])
    assert not torch.equal(found[0], found[2])
    prompts = torch.tensor([[4, 4, 4], [0, 1, 2]]).repeat_interleave(50, 0)
    after = prior.sample(
        2, [None] * 100, prompts, generator=[torch.Generator().manual_seed(i % 50) for i in range(100)]
    )
    assert not torch.equal(after[:50], after[50:])
    save_model(prior, tmp_path / "prior")
    loaded = load_model(tmp_path / "prior", kind=CodePrior)
    assert loaded.cfg == prior.cfg
    assert torch.equal(loaded.sample(40, [None], generator=[torch.Generator().manual_seed(3)]), found[2:])
    with pytest.raises(ValueError, match=r"speaker 'carl' is not in this prior; it has 2: anna, bert \(vqaudio info"):
        drawn(["carl"])


def test_long_speaker_lists_are_abbreviated_in_errors() -> None:
    prior = CodePrior(CodePriorConfig(speakers=tuple(f"s{i}" for i in range(20)), net=NET))
    assert prior.speaker_ids(["s19", None, "s0"]).tolist() == [19, 20, 0]
    with pytest.raises(ValueError, match=r"it has 20: s0, .*, s11, \.\.\. \(vqaudio info PRIOR lists them\)"):
        prior.speaker_ids(["s20"])
