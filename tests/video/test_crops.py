"""Windows lie within episodes, and are a pure function of (seed, step, slice)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vqaudio.images.codes import CodeMaps
from vqaudio.video.crops import (
    CodeSequences,
    VideoCropConfig,
    VideoCrops,
    code_sequences,
    unigram_probabilities,
    window_batches,
)
from vqaudio.video.recording import Recording

CFG = VideoCropConfig(batch_size=6, noise=0.5, seed=7)


def test_windows_lie_within_episodes(sequences: CodeSequences) -> None:
    assert sequences.starts(3).tolist() == [0, 1, 2, 3, 4, 7, 10, 11, 12, 13, 14, 15, 16]
    assert sequences.starts(4).tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 14, 15]
    assert sequences.starts(10).tolist() == []
    episodes = list(sequences.episodes())
    (batch,) = window_batches(sequences, 3, 99)
    assert torch.equal(batch["codes"][5], episodes[1][0]) and torch.equal(batch["actions"][5], episodes[1][1])
    assert torch.equal(batch["codes"][-1], episodes[2][0][-3:]) and torch.equal(
        batch["actions"][-1], episodes[2][1][-2:]
    )
    few = list(window_batches(sequences, 3, 2, count=4))
    assert [len(batch["codes"]) for batch in few] == [2, 2]


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_a_step_is_the_same_however_it_is_divided(sequences: CodeSequences, parts: int) -> None:
    crops = VideoCrops(sequences, CFG, context=2)
    whole = crops.batch(3)
    slices = [VideoCrops(sequences, CFG, context=2).batch(3, part, parts) for part in range(parts)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([each[name] for each in slices]), value)
    assert whole["codes"].shape == (6, 3, 4, 4) and whole["actions"].shape == (6, 2)


def test_other_steps_and_seeds_are_other_windows(sequences: CodeSequences) -> None:
    crops = VideoCrops(sequences, CFG, context=2)
    other = VideoCrops(sequences, replace(CFG, seed=8), context=2)
    assert not torch.equal(crops.batch(3)["context_codes"], crops.batch(4)["context_codes"])
    assert not torch.equal(crops.batch(3)["context_codes"], other.batch(3)["context_codes"])


def test_noise_replaces_a_fraction_of_what_is_seen(sequences: CodeSequences) -> None:
    batch = VideoCrops(sequences, replace(CFG, batch_size=400), context=2).batch(0)
    changed = (batch["context_codes"] != batch["codes"]).double().mean()
    assert 0.15 < changed < 0.27  # half of 0.5 on average, of which a sixth stays the same by chance
    assert batch["context_codes"].min() >= 0 and batch["context_codes"].max() < 6
    quiet = VideoCrops(sequences, replace(CFG, noise=0.0), context=2).batch(0)
    assert torch.equal(quiet["context_codes"], quiet["codes"])


def test_unigrams_are_smoothed(sequences: CodeSequences) -> None:
    p = unigram_probabilities(replace(sequences, codes=torch.zeros_like(sequences.codes)))
    places = sequences.codes.numel()
    assert p.tolist() == pytest.approx([(places + 1) / (places + 6), *[1 / (places + 6)] * 5])


def test_codes_meet_the_actions_of_their_episodes(recording: Recording) -> None:
    frames = sum(facts.frames for facts in recording.episodes["train"])
    maps = CodeMaps(torch.zeros(frames, 1, 4, 4), torch.zeros(frames), ("frame",), 6, "m", "s")
    sequences = code_sequences(recording, "train", maps)
    assert sequences.lengths == [facts.frames for facts in recording.episodes["train"]]
    for taken, episode in zip(sequences.actions, recording.read("train"), strict=True):
        assert taken.tolist() == episode.actions.tolist()
    with pytest.raises(ValueError, match="one code per position, but the model has 2"):
        code_sequences(recording, "train", replace(maps, codes=torch.zeros(frames, 2, 4, 4)))


def test_what_cannot_be_trained_on_is_explained(sequences: CodeSequences) -> None:
    with pytest.raises(ValueError, match="no episode has 10 frames; record longer ones"):
        VideoCrops(sequences, CFG, context=9)
    with pytest.raises(ValueError, match="batch_size 6 cannot be divided into 7 slices"):
        VideoCrops(sequences, CFG, context=2).batch(0, 0, 7)
    for options, message in (
        ({"noise": 1.0}, "noise must lie in 0 to 1, 1 excluded, got 1.0"),
        ({"batch_size": 0}, "batch_size and targets must be at least 1, got 0"),
        ({"seed": -1}, "seed must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(CFG, **options)
