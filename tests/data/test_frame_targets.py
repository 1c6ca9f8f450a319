"""Targets of frames: cached by key, complete or not at all, and cut as crops are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from vqaudio.data.crops import CropConfig, CropTargets, SpeechCrops, validation_batches
from vqaudio.data.frame_targets import (
    CLUSTERS_FILE,
    INDEX_FILE,
    FrameTargets,
    Targets,
    cached_targets,
    num_target_frames,
)

HOP = 40
CFG = CropConfig(samples=1000, batch_size=64, seed=3, past=640, future=100, speaker_balance=1)


def _made(packed) -> Iterator[Targets]:
    """Frame n of utterance u has cluster 7 u + n, and that number twice as its vector."""
    for u, length in enumerate(packed.lengths.tolist()):
        clusters = 7 * u + np.arange(num_target_frames(length, HOP), dtype=np.int16)
        yield clusters, np.stack([clusters, clusters], 1).astype(np.float16)


@pytest.fixture
def targets(packed, tmp_path) -> FrameTargets:
    return cached_targets(tmp_path / "targets", packed, HOP, "a", lambda: _made(packed))


def test_they_are_cached_by_key(packed, targets, tmp_path) -> None:
    def never() -> Iterator[Targets]:
        raise AssertionError("made again")
        yield

    again = cached_targets(tmp_path / "targets", packed, HOP, "a", never)
    assert np.array_equal(again.clusters, targets.clusters) and np.array_equal(again.vectors, targets.vectors)
    with pytest.raises(AssertionError, match="made again"):
        cached_targets(tmp_path / "targets", packed, HOP, "b", never)
    assert cached_targets(tmp_path / "targets", packed, HOP, "a", never).hop == HOP  # the failure left them
    expected, path = targets.clusters.copy(), tmp_path / "targets" / CLUSTERS_FILE
    path.unlink()  # not overwritten, because the targets are memory maps of it
    path.write_bytes(b"cut off")
    for damaged in (None, "{", "[]", '{"key": "a"}'):
        if damaged is not None:
            (tmp_path / "targets" / INDEX_FILE).write_text(damaged)
        repaired = cached_targets(tmp_path / "targets", packed, HOP, "a", lambda: _made(packed))
        assert np.array_equal(repaired.clusters, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".targets.lock", "targets"]


def test_a_folder_of_something_else_is_kept(packed, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="no frame targets"):
        cached_targets(tmp_path / "mine", packed, HOP, "a", lambda: _made(packed))
    (tmp_path / "mine" / INDEX_FILE).write_text("[")
    assert cached_targets(tmp_path / "mine", packed, HOP, "a", lambda: _made(packed)).hop == HOP


def test_crops_have_the_targets_of_their_frames(packed, targets) -> None:
    crops = SpeechCrops(packed, CFG, targets=CropTargets(targets, 3, 80))
    plain = SpeechCrops(packed, replace(CFG, past=0, future=0))
    utterances, starts = crops._draw(5)
    batch = crops.batch(5)
    assert batch["units"].shape == (64, 3 + 26 + 3) and batch["cepstra"].shape == (64, 32, 2)
    for row in range(64):
        length, first = int(packed.lengths[utterances[row]]), int(starts[row]) // HOP
        for m in range(32):
            frame = first - 3 + m
            inside = 0 <= frame < num_target_frames(length, HOP)
            cluster = 7 * int(utterances[row]) + frame if inside else -1
            assert batch["units"][row, m] == cluster
            assert batch["cepstra"][row, m].tolist() == [max(0, cluster) if inside else 0.0] * 2
    assert (batch["units"] == -1).any()
    aligned = starts - starts % HOP
    for row, (utterance, start) in enumerate(zip(utterances, aligned, strict=True)):
        audio = np.pad(packed.audio(utterance), (640, 2000))[start : start + 640 + 1000 + 100]
        whole = torch.cat([batch[name][row, 0] for name in ("past", "wav", "future")])
        assert torch.equal(whole, torch.from_numpy(audio / 32768).float())
        assert batch["past_lengths"][row] == min(640, start)
    assert (batch["past_lengths"] < 640).any() and (batch["past_lengths"] == 640).any()
    assert torch.equal(plain.batch(5)["speaker"], batch["speaker"])


def test_parts_joined_equal_the_whole(packed, targets) -> None:
    crops = SpeechCrops(packed, replace(CFG, gain_db=6, target_shift=50), targets=CropTargets(targets, 3, 80))
    whole, parts = crops.batch(2), [crops.batch(2, part, 3) for part in range(3)]
    assert {"units", "cepstra", "past", "past_lengths", "future"} < whole.keys()
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value), name
    unscaled = SpeechCrops(packed, replace(CFG, target_shift=50), targets=CropTargets(targets, 3, 80)).batch(2)
    factors = (whole["wav"].abs().sum((1, 2)) / unscaled["wav"].abs().sum((1, 2)))[:, None, None]
    for name in ("past", "future"):
        torch.testing.assert_close(whole[name], unscaled[name] * factors)


def test_validation_crops_have_them_too(packed, targets) -> None:
    own = {"past": 640, "future": 100, "targets": CropTargets(targets, 3, 80)}
    for batch in validation_batches(packed, 1000, 4, 2, **own):
        at = batch["units"][:, 3]
        assert torch.equal(batch["cepstra"][:, 3, 0], at.float())
        assert batch["past"].shape == (4, 1, 640) and batch["future"].shape == (4, 1, 100)


@pytest.mark.parametrize("options", [{"past": -1}, {"future": -1}])
def test_bad_values_are_refused(options) -> None:
    with pytest.raises(ValueError, match="past and future"):
        CropConfig(**options)
