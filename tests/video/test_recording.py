"""Episodes on disk, their frames as images, and the recorder itself where vizdoom is installed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vqaudio.images.autoencoder import ImageCoderConfig
from vqaudio.images.data import open_images
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.video import recorder
from vqaudio.video.recorder import RecordConfig, play, record, recorded_with
from vqaudio.video.recording import (
    Episode,
    Recording,
    images_folder,
    is_recording,
    open_recording,
    read_episode,
    write_episode,
)
from vqaudio.video.report import check_recording

SHORT = RecordConfig(frames=48, episode_frames=12, size=20, seed=5)


@pytest.fixture
def game() -> None:
    pytest.importorskip("vizdoom", reason="recording needs vizdoom: pip install 'vqaudio[video]'")


def test_an_episode_is_read_as_it_was_written(tmp_path: Path, recording: Recording) -> None:
    episode = next(recording.read("train"))
    for name in ("a.npz", "b.npz"):
        write_episode(tmp_path / name, episode)
    again = read_episode(tmp_path / "a.npz")
    assert np.array_equal(again.frames, episode.frames) and np.array_equal(again.actions, episode.actions)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with pytest.raises(FileExistsError):
        write_episode(tmp_path / "a.npz", episode)


def test_a_recording_is_read_as_it_was_written(recording: Recording) -> None:
    assert open_recording(recording.folder) == recording
    assert {split: len(part) for split, part in recording.episodes.items()} == {"train": 4, "valid": 1, "test": 1}
    ids = [facts.id for part in recording.episodes.values() for facts in part]
    assert sorted(ids) == [f"{number:05d}" for number in range(6)]
    assert is_recording(recording.folder) and not is_recording(recording.folder.parent)


def test_frames_are_unpacked_once_as_images(recording: Recording, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(recording.folder, copy)
    frames = images_folder(copy)
    images = open_images(frames / "train")
    expected = np.concatenate([episode.frames for episode in recording.read("train")])
    assert np.array_equal(np.stack([images.image(i) for i in range(len(images))]), expected)
    assert images.ids[0] == f"{recording.episodes['train'][0].id}/00000"
    shutil.rmtree(copy / "episodes")
    assert images_folder(copy) == frames  # from what was unpacked
    assert images_folder(tmp_path) == tmp_path  # not a recording


def test_what_is_no_recording_is_explained(recording: Recording, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"contains no recording: it lacks recording\.json"):
        open_recording(tmp_path)
    index = json.loads((recording.folder / "recording.json").read_text())
    for content, message in (
        ("{", "recording.json is not JSON"),
        ("[]", "this vqaudio reads version 1"),
        (json.dumps({**index, "version": 2}), "this vqaudio reads version 1"),
        (json.dumps({**index, "episodes": {}}), "is damaged"),
        (json.dumps({**index, "actions": []}), "is damaged .actions must be different names"),
        (json.dumps({**index, "actions": ["left", "left"]}), "is damaged .actions must be different names"),
        (json.dumps({**index, "size": "84"}), "is damaged .size must be a whole number"),
        (json.dumps({**index, "source": None}), "is damaged .size must be a whole number of at least 1, and source"),
        (json.dumps({**index, "episodes": {**index["episodes"], "valid": index["episodes"]["test"]}}), "occurs twice"),
        (json.dumps({**index, "episodes": {name: [{"id": 1}] for name in index["episodes"]}}), "is damaged"),
    ):
        (tmp_path / "recording.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            open_recording(tmp_path)


def test_what_is_no_episode_is_explained(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    with pytest.raises(FileNotFoundError, match=r"there is no episode .*e\.npz"):
        read_episode(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"e\.npz is no recorded episode"):
        read_episode(path)
    np.savez_compressed(path, frames=np.zeros((3, 4, 4, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="is no recorded episode"):
        read_episode(path)
    for frames, actions in (
        (np.zeros((3, 4, 4, 3)), np.zeros(2, int)),
        (np.zeros((3, 4, 4, 3), "u1"), np.zeros(3, int)),
    ):
        np.savez_compressed(path, frames=frames, actions=actions)
        with pytest.raises(ValueError, match=r"frames must be \(T, H, W, 3\) uint8 and actions \(T - 1,\) integers"):
            read_episode(path)
    np.savez_compressed(path, frames=np.array([{}], dtype=object), actions=np.zeros(0, int))
    with pytest.raises(ValueError, match="is no recorded episode"):  # a pickle is not read
        read_episode(path)
    truth = next(recording.read("test"))
    shutil.copytree(recording.folder, tmp_path / "copy")
    own = tmp_path / "copy/episodes" / f"{recording.episodes['test'][0].id}.npz"
    own.unlink()
    write_episode(own, Episode(truth.frames[:5], truth.actions[:4]))
    with pytest.raises(ValueError, match="has 5 frames, expected"):
        list(open_recording(tmp_path / "copy").read("test"))


def test_frames_of_another_size_than_the_index_says_are_explained(recording: Recording) -> None:
    with pytest.raises(ValueError, match=r"00\d\.npz have 16 x 16 pixels, expected 84 x 84; record again"):
        list(replace(recording, size=84).read("test"))


def test_a_model_with_several_codes_per_position_is_refused_before_anything_is_encoded(recording: Recording) -> None:
    coder = ImageCoderConfig(channels=4, blocks=1, num_maps=2, dim=2, num_mixtures=1)
    cfg = ImageConfig(size=16, coder=coder, quantizer=VectorQuantizerConfig(codebook_size=4, dim=2))
    with pytest.raises(ValueError, match="a video prior models one code per position, but the model has 2"):
        check_recording(recording, ImageVQVAE(cfg))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 4}, "frames must be at least 8, for 4 episodes, got 4"),
        ({"frame_skip": 0}, "frame_skip must be at least 1, got 0"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"seed": -1}, r"seed must lie in 0\.\.2\*\*32 - 1, got -1"),
    ],
)
def test_what_cannot_be_recorded_is_explained(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SHORT, **options)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("game")
def test_a_seed_gives_the_same_recording_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = [record(SHORT, tmp_path / name, valid=0.25, test=0.25) for name in ("a", "b")]
    first, second = (_files(recording.folder) for recording in made)
    assert first == second and len(first) == 1 + sum(map(len, made[0].episodes.values()))
    assert sum(facts.frames for part in made[0].episodes.values() for facts in part) == SHORT.frames
    record(replace(SHORT, seed=6), tmp_path / "c")
    assert first["episodes/00000.npz"] != _files(tmp_path / "c")["episodes/00000.npz"]
    with pytest.raises(FileExistsError, match="exists already; pass --overwrite"):
        record(SHORT, tmp_path / "a")
    assert set(made[0].actions) == {"left", "right", "forward", "step-left", "step-right"}
    assert next(made[0].read("train")).frames.shape[1:] == (20, 20, 3)
    assert not list((tmp_path / "here").iterdir())  # the game leaves nothing behind


@pytest.mark.usefixtures("game")
def test_an_episode_can_be_played_again_and_otherwise(tmp_path: Path) -> None:
    recording = record(SHORT, tmp_path / "a", valid=0.25, test=0.25)
    assert recorded_with(recording) == SHORT
    for number in (0, 3):
        episode = read_episode(recording.path(f"{number:05d}"))
        assert np.array_equal(play(SHORT, number, episode.actions.tolist()), episode.frames)
    turned = [*episode.actions[:4], *[0] * 6]
    frames = play(SHORT, 3, turned)
    assert len(frames) == 11 and np.array_equal(frames[:5], episode.frames[:5])
    assert not np.array_equal(frames[-1], frames[-2])


def test_what_is_not_of_the_game_is_not_played(recording: Recording) -> None:
    with pytest.raises(ValueError, match="was not recorded with ViZDoom"):
        recorded_with(recording)
    source = {"environment": "vizdoom", "scenario": "basic", "weather": "rain"}
    with pytest.raises(ValueError, match=r"was recorded with options that this vqaudio lacks .*weather"):
        recorded_with(replace(recording, source=source))


@pytest.mark.usefixtures("game")
def test_a_wrong_scenario_or_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"scenario 'lost' is neither a \.cfg file nor one of ViZDoom's: .*my_way_home"
    ):
        record(replace(SHORT, scenario="lost"), tmp_path / "a")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/text").touch()
    with pytest.raises(FileExistsError, match="contains something else than a recording"):
        record(SHORT, tmp_path / "other", overwrite=True)
    with pytest.raises(ValueError, match="valid and test must be at least 0"):
        record(SHORT, tmp_path / "a", valid=0.5, test=0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


@pytest.mark.parametrize("buttons", ["", "available_buttons = { TURN_LEFT_RIGHT_DELTA }"])
def test_scenarios_without_buttons_to_press_are_refused(tmp_path, buttons) -> None:
    pytest.importorskip("vizdoom", reason="recording needs vizdoom: pip install 'vqaudio[video]'")
    (tmp_path / "own.cfg").write_text(f"doom_scenario_path = basic.wad\n{buttons}\n")
    with pytest.raises(ValueError, match="recording needs some, all of which are on or off"):
        record(RecordConfig(scenario=str(tmp_path / "own.cfg"), frames=40), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("actions", [[0, 99], [0], [0, -1]])
def test_actions_that_the_index_does_not_have_are_named(recording: Recording, tmp_path: Path, actions) -> None:
    copy = shutil.copytree(recording.folder, tmp_path / "copy")
    facts = recording.episodes["train"][0]
    damaged = np.resize(np.array(actions, np.int64), facts.frames - 1 if len(actions) > 1 else 1)
    frames = read_episode(recording.path(facts.id)).frames
    path = copy / "episodes" / f"{facts.id}.npz"
    np.savez_compressed(path, frames=frames, actions=damaged)
    with pytest.raises(ValueError, match=f"{facts.id}.npz"):
        open_recording(copy).action_sequences("train")
    with pytest.raises(ValueError, match=f"{facts.id}.npz"):
        list(open_recording(copy).read("train"))


def test_the_policy_turns_where_the_way_is_blocked_and_walks_where_it_is_free() -> None:
    actions = ("left", "right", "forward", "step-left")
    policy = recorder._ExploringPolicy(actions, seed=0, number=0)
    for _ in range(20):
        turns = {actions[policy.choose(recorder.BLOCKED - 1)] for _ in range(recorder.MAX_TURN // 2)}
        assert len(turns) == 1 and turns <= {"left", "right"}  # one direction, however long it takes
        assert actions[policy.choose(recorder.FREE)] == "forward"
        free = [policy.choose(255) for _ in range(40)]
    assert len(set(free)) > 1


def test_the_policy_of_a_scenario_without_turns_avoids_nothing() -> None:
    policy = recorder._ExploringPolicy(("step-left", "attack"), seed=0, number=0)
    assert {policy.choose(0) for _ in range(200)} == {0, 1}


def test_recorded_pictures_hardly_ever_stand_still(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom", reason="recording needs vizdoom: pip install 'vqaudio[video]'")
    recording = record(RecordConfig(frames=400), tmp_path / "out", valid=0.25, test=0.25)
    changes = [
        np.abs(np.diff(episode.frames.astype(int), axis=0)).mean((1, 2, 3))
        for split in recording.episodes
        for episode in recording.read(split)
    ]
    assert np.mean(np.concatenate(changes) < 1) < 0.02
