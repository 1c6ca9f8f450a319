"""Recorded episodes of an environment: one compressed file per episode, and an index with their splits.

The folder contains `recording.json` and `episodes/NUMBER.npz`, each with `frames` and `actions`. Lossless, no pickle.
Shapes: T frames of an episode, H x W pixels.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from vqaudio.atomic import atomic_file, atomic_folder
from vqaudio.data.splits import split_group
from vqaudio.images.data import INDEX_FILE, fill_folder
from vqaudio.json_text import DAMAGED, read_index

VERSION = 1
RECORDING_FILE, EPISODES_FOLDER, FRAMES_FOLDER = "recording.json", "episodes", "frames"
SPLITS = ("train", "valid", "test")
Frames = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


class Episode(NamedTuple):
    """The frames and actions of one episode."""

    frames: Frames  # (T, H, W, 3), T at least 1
    actions: Ints  # (T - 1,) indices into the names of the actions; action t leads from frame t to frame t + 1


class EpisodeFacts(NamedTuple):
    """An episode in the index."""

    id: str
    frames: int  # T
    end: str  # what ended it: goal, death, timeout (of the environment), length (of the recording)


@dataclass(frozen=True)
class Recording:
    """The index of a recording."""

    folder: Path
    actions: tuple[str, ...]
    """names of the actions"""
    size: int
    """height and width of the frames, in pixels"""
    episodes: dict[str, tuple[EpisodeFacts, ...]]
    """split (train, valid, test) -> its episodes"""
    source: dict[str, Any]
    """how it was made: environment, scenario, frame skip, seed"""

    def path(self, id: str) -> Path:
        """The file of an episode."""
        return self.folder / EPISODES_FOLDER / f"{id}.npz"

    def read(self, split: str) -> Iterator[Episode]:
        """The episodes of a split in order. Raises ValueError for a damaged file."""
        for facts in self.episodes[split]:
            episode = read_episode(self.path(facts.id))
            if len(episode.frames) != facts.frames:
                raise ValueError(
                    f"{self.path(facts.id)} has {len(episode.frames)} frames, expected {facts.frames}; record again"
                )
            if episode.frames.shape[1:3] != (self.size, self.size):
                height, width = episode.frames.shape[1:3]
                raise ValueError(
                    f"the frames of {self.path(facts.id)} have {height} x {width} pixels, expected {self.size} x "
                    f"{self.size}; record again"
                )
            self._check(episode.actions, facts)
            yield episode

    def action_sequences(self, split: str) -> list[Ints]:
        """(T - 1,) actions of each episode of a split; frames are not read."""
        sequences = []
        for facts in self.episodes[split]:
            sequences.append(_arrays(self.path(facts.id), ("actions",))[0].astype(np.int64))
            self._check(sequences[-1], facts)
        return sequences

    def _check(self, actions: Ints, facts: EpisodeFacts) -> None:
        """Raises ValueError for actions that the index does not have, or that are not one between frames."""
        known = len(self.actions)
        if actions.shape != (facts.frames - 1,) or (len(actions) and not 0 <= actions.min() <= actions.max() < known):
            raise ValueError(
                f"the actions of {self.path(facts.id)} must be {facts.frames - 1} in 0 to {known - 1}, got "
                f"{actions.shape} with {np.unique(actions)[-3:].tolist()}; record again"
            )


def write_episode(path: Path, episode: Episode) -> None:
    """Write one compressed .npz file, atomically; equal episodes give equal bytes."""
    with atomic_file(path) as temporary:
        np.savez_compressed(temporary, frames=episode.frames, actions=episode.actions.astype(np.uint8))


def read_episode(path: str | Path) -> Episode:
    """Read a file of `write_episode`. Raises ValueError if it is not one, or is damaged."""
    frames, actions = _arrays(Path(path), ("frames", "actions"))
    right = frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8
    if not right or actions.shape != (len(frames) - 1,) or actions.dtype.kind not in "ui":
        raise ValueError(
            f"{path} is no recorded episode: frames must be (T, H, W, 3) uint8 and actions (T - 1,) integers, got "
            f"{frames.shape} {frames.dtype} and {actions.shape} {actions.dtype}; record it with vqaudio prepare vizdoom"
        )
    return Episode(frames, actions.astype(np.int64))


def write_recording(
    folder: Path,
    episodes: Sequence[EpisodeFacts],
    actions: Sequence[str],
    size: int,
    source: dict[str, Any],
    *,
    valid: float,
    test: float,
    seed: int,
) -> Recording:
    """Split the episodes, whose files are written, and write the index. Raises ValueError for too few episodes."""
    parts = split_group(episodes, lambda facts: facts.id, valid=valid, test=test, seed=seed)
    splits = {name: tuple(sorted(part)) for name, part in zip(SPLITS, parts, strict=True)}
    index = {
        "version": VERSION,
        "actions": list(actions),
        "size": size,
        "source": source,
        "episodes": {name: [facts._asdict() for facts in part] for name, part in splits.items()},
    }
    (folder / RECORDING_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return Recording(folder, tuple(actions), size, splits, source)


def is_recording(folder: Path) -> bool:
    """Whether a folder is one of `vqaudio prepare vizdoom`."""
    return (folder / RECORDING_FILE).is_file()


def open_recording(folder: str | Path) -> Recording:
    """Open a folder of `vqaudio prepare vizdoom`. Raises FileNotFoundError, or ValueError if it is damaged."""
    folder = Path(folder)
    path = folder / RECORDING_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} contains no recording: it lacks {RECORDING_FILE}; run vqaudio prepare vizdoom"
        )
    advice = f"delete {folder} and record again"
    index = read_index(path, VERSION, advice)
    try:
        episodes = {name: tuple(EpisodeFacts(**facts) for facts in index["episodes"][name]) for name in SPLITS}
        made = Recording(folder, tuple(index["actions"]), index["size"], episodes, index["source"])
        _check_index(made)
        return made
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged ({error}); {advice}") from error


def _check_index(recording: Recording) -> None:
    """Raises TypeError or ValueError for values that an index cannot have."""
    names, every = recording.actions, [facts for part in recording.episodes.values() for facts in part]
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"actions must be different names, at least one, got {list(names)}")
    if type(recording.size) is not int or recording.size < 1 or not isinstance(recording.source, dict):
        raise TypeError("size must be a whole number of at least 1, and source a mapping")
    if not all(isinstance(each.id, str) and type(each.frames) is int and each.frames > 0 for each in every):
        raise TypeError("every episode needs an id and a number of frames")
    if len({each.id for each in every}) < len(every):
        raise ValueError("an episode occurs twice")


def images_folder(folder: Path) -> Path:
    """The folder with packed images that image models train on: that of a recording's frames, or `folder` itself.

    The frames of a recording are unpacked once, to FOLDER/frames/{train,valid,test}; concurrent processes wait.
    """
    if not is_recording(folder):
        return folder
    recording, frames = open_recording(folder), folder / FRAMES_FOLDER
    with FileLock(folder / f".{FRAMES_FOLDER}.lock"):
        if not (frames / SPLITS[-1] / INDEX_FILE).is_file():
            with atomic_folder(frames) as new:
                for split in SPLITS:
                    (new / split).mkdir()
                    fill_folder(new / split, _images(recording, split), ("frame",))
    return frames


def _images(recording: Recording, split: str) -> Iterator[tuple[str, Frames, int]]:
    for facts, episode in zip(recording.episodes[split], recording.read(split), strict=True):
        for number, frame in enumerate(episode.frames):
            yield f"{facts.id}/{number:05d}", frame, 0


def _arrays(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Arrays of a .npz file. Raises ValueError if it lacks one or is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = []
            for name in names:
                with archive.open(f"{name}.npy") as file:
                    arrays.append(np.lib.format.read_array(file, allow_pickle=False))
            return arrays
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no episode {path}; vqaudio prepare vizdoom records some") from error
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no recorded episode ({error}); record it again") from error
