"""Records episodes of ViZDoom. vizdoom itself is imported only here, when something is recorded.

An episode is a pure function of (scenario, frame skip, size, seed, its number), so that it can also be played again and
continued with other actions. Shapes: T frames of an episode, S x S pixels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vqaudio.atomic import atomic_folder, check_names_folder
from vqaudio.data.splits import check_fractions
from vqaudio.images.files import check_pillow
from vqaudio.video.actions import action_of_button
from vqaudio.video.recording import (
    EPISODES_FOLDER,
    RECORDING_FILE,
    Episode,
    EpisodeFacts,
    Frames,
    Recording,
    write_episode,
    write_recording,
)

MIN_EPISODES = 4  # one for validation, one for testing, and some to train on
VIZDOOM_FOLDER = "_vizdoom"  # empty folder that ViZDoom creates in the working directory
MAX_HELD = 12  # frames for which the policy keeps an action
WEIGHTS, OTHER_WEIGHT = {"forward": 6.0, "left": 1.0, "right": 1.0}, 0.3  # of the policy's actions
BLOCKED, FREE = 5, 12  # of 255 units of the depth buffer, about 14 of the game's map each
MAX_TURN = 64  # frames after which it turns no longer to find room: about a whole turn


@dataclass(frozen=True)
class RecordConfig:
    """What is recorded."""

    scenario: str = "my_way_home"
    """name of one of ViZDoom's scenarios, or path of a .cfg file"""
    frames: int = 20_000
    """number of frames in all"""
    episode_frames: int = 300
    """largest number of frames of an episode"""
    frame_skip: int = 2
    """tics of the game (35 per second) between two frames, for which the action is held"""
    size: int = 84
    """height and width of the frames, in pixels"""
    seed: int = 0
    """random seed of the environment and of the actions"""

    def __post_init__(self) -> None:
        for name in ("frames", "episode_frames", "frame_skip", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.frames < MIN_EPISODES * 2:
            raise ValueError(
                f"frames must be at least {MIN_EPISODES * 2}, for {MIN_EPISODES} episodes, got {self.frames}"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2**32 - 1, got {self.seed}")

    @property
    def longest_episode(self) -> int:
        """Frames of the longest episode: a short recording has several episodes too."""
        return min(self.episode_frames, self.frames // MIN_EPISODES)


def record(
    cfg: RecordConfig, out: str | Path, *, valid: float = 0.05, test: float = 0.05, overwrite: bool = False
) -> Recording:
    """Record episodes of a random walk that avoids walls into the folder `out`, which appears complete or not at all.

    Raises ValueError for fractions as in `check_fractions` and an unknown scenario, ModuleNotFoundError if vizdoom or
    Pillow is missing, OSError if the folder exists (without `overwrite`) or cannot be written.
    """
    out = Path(out).absolute()
    check_fractions(valid, test)
    _check_target(out, overwrite=overwrite)
    check_pillow()
    episodes: list[EpisodeFacts] = []
    with _game(cfg) as game:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(out) as folder, tqdm(total=cfg.frames, unit="frame", disable=None) as bar:
            (folder / EPISODES_FOLDER).mkdir()
            left = cfg.frames
            while left:
                number = len(episodes)
                policy = _ExploringPolicy(game.actions, cfg.seed, number)
                episode, end = _episode(game, cfg, number, policy, min(left, cfg.longest_episode))
                episodes.append(EpisodeFacts(f"{number:05d}", len(episode.frames), end))
                write_episode(folder / EPISODES_FOLDER / f"{number:05d}.npz", episode)
                left -= len(episode.frames)
                bar.update(len(episode.frames))
            source = {"environment": "vizdoom", **asdict(cfg)}
            made = write_recording(
                folder, episodes, game.actions, cfg.size, source, valid=valid, test=test, seed=cfg.seed
            )
    return Recording(out, made.actions, made.size, made.episodes, made.source)


def play(cfg: RecordConfig, number: int, actions: Sequence[int]) -> Frames:
    """Frames (T, S, S, 3) of episode `number` when these actions are taken, T at most their number + 1."""
    with _game(cfg) as game:
        return _episode(game, cfg, number, _GivenPolicy(actions), len(actions) + 1)[0].frames


def recorded_with(recording: Recording) -> RecordConfig:
    """The configuration of a recording, for `play`. Raises ValueError for a recording of something else."""
    source = dict(recording.source)
    if source.pop("environment", None) != "vizdoom":
        raise ValueError(f"{recording.folder} was not recorded with ViZDoom, and cannot be played again")
    try:
        return RecordConfig(**source)
    except TypeError as error:
        raise ValueError(f"{recording.folder} was recorded with options that this vqaudio lacks ({error})") from error


class _ExploringPolicy:
    """Random actions that are held for a while; where the way is blocked, it turns until there is room to walk."""

    def __init__(self, actions: Sequence[str], seed: int, number: int):
        self.rng = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))
        weights = np.array([WEIGHTS.get(name, OTHER_WEIGHT) for name in actions])
        self.weights = weights / weights.sum()
        turns = [i for i, name in enumerate(actions) if name in ("left", "right")]
        self.turns = turns if "forward" in actions else []  # without both it cannot avoid anything
        self.forward = actions.index("forward") if self.turns else 0
        self.action, self.held, self.avoiding = 0, 0, False

    def choose(self, room_ahead: int) -> int:
        """The next action, given the distance to what stands in the way, in units of the depth buffer."""
        if self.avoiding and room_ahead >= FREE:
            self.avoiding, self.action, self.held = False, self.forward, int(self.rng.integers(1, MAX_HELD))
        elif not self.avoiding and self.turns and room_ahead < BLOCKED:
            self.avoiding, self.action, self.held = True, int(self.rng.choice(self.turns)), MAX_TURN
        elif not self.held:
            self.avoiding, self.held = False, int(self.rng.integers(1, MAX_HELD))
            self.action = int(self.rng.choice(len(self.weights), p=self.weights))
        self.held -= 1
        return self.action


class _GivenPolicy:
    """The actions given."""

    def __init__(self, actions: Iterable[int]):
        self.actions = iter(actions)

    def choose(self, room_ahead: int) -> int:
        """The next one."""
        return next(self.actions)


class _Game:
    """A running ViZDoom and the names of its actions."""

    def __init__(self, engine: Any, actions: tuple[str, ...]):
        self.engine, self.actions = engine, actions

    def picture(self, size: int) -> Frames:
        """(S, S, 3): the current frame, scaled from the game's 160 x 120 pixels."""
        from PIL import Image

        screen = Image.fromarray(self.engine.get_state().screen_buffer)
        return np.asarray(screen.resize((size, size), Image.Resampling.BILINEAR))

    def room_ahead(self) -> int:
        """The smallest distance in the middle of the picture, in units of the depth buffer (0 to 255)."""
        height, width = (depth := self.engine.get_state().depth_buffer).shape
        middle = depth[height * 9 // 20 : height * 11 // 20, width * 3 // 8 : width * 5 // 8]
        return int(middle.min())

    def act(self, action: int, tics: int) -> None:
        """Hold the button of an action."""
        self.engine.make_action([int(i == action) for i in range(len(self.actions))], tics)


def _episode(
    game: _Game, cfg: RecordConfig, number: int, policy: _ExploringPolicy | _GivenPolicy, most: int
) -> tuple[Episode, str]:
    """One episode of at most `most` frames, and what ended it."""
    state = np.random.SeedSequence([cfg.seed, number]).generate_state(1)
    game.engine.set_seed(int(state[0]) % 2**31)
    game.engine.new_episode()
    frames, actions = [game.picture(cfg.size)], []
    while len(frames) < most:
        action = policy.choose(game.room_ahead())
        game.act(action, cfg.frame_skip)
        if game.engine.is_episode_finished():
            return Episode(np.stack(frames), np.array(actions, dtype=np.int64)), _end(game.engine)
        actions.append(action)
        frames.append(game.picture(cfg.size))
    return Episode(np.stack(frames), np.array(actions, dtype=np.int64)), "length"


def _end(engine: Any) -> str:
    """What ended the episode of a game."""
    if engine.is_player_dead():
        return "death"
    timeout = engine.get_episode_time() >= engine.get_episode_timeout() > 0
    return "timeout" if timeout else "goal"


@contextmanager
def _game(cfg: RecordConfig) -> Iterator[_Game]:
    """ViZDoom without window, weapon and display. Raises ModuleNotFoundError without it, ValueError for a scenario."""
    try:
        import vizdoom
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("recording needs vizdoom: pip install 'vqaudio[video]'") from error
    engine = vizdoom.DoomGame()
    engine.load_config(str(_scenario(cfg.scenario, Path(vizdoom.scenarios_path))))
    buttons = [str(button).rpartition(".")[2] for button in engine.get_available_buttons()]
    if not buttons or any(button.endswith("_DELTA") for button in buttons):
        raise ValueError(
            f"scenario {cfg.scenario!r} has the buttons {', '.join(buttons) or 'none'}; recording needs some, all of "
            "which are on or off (none that ends in _DELTA): take another scenario"
        )
    engine.set_window_visible(False)
    engine.set_sound_enabled(False)
    engine.set_depth_buffer_enabled(True)
    engine.set_mode(vizdoom.Mode.PLAYER)
    engine.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    engine.set_screen_format(vizdoom.ScreenFormat.RGB24)
    for hide in ("hud", "weapon", "crosshair", "messages", "decals", "particles"):
        getattr(engine, f"set_render_{hide}")(False)
    with tempfile.TemporaryDirectory(prefix="vqaudio-") as folder:
        engine.set_doom_config_path(str(Path(folder) / "vizdoom.ini"))  # by default it writes to the working directory
        engine.init()
        try:
            yield _Game(engine, tuple(map(action_of_button, buttons)))
        finally:
            engine.close()
            with suppress(OSError):  # it is not empty, or not there
                Path(VIZDOOM_FOLDER).rmdir()


def _scenario(name: str, shipped: Path) -> Path:
    """The .cfg file of a scenario."""
    if name.endswith(".cfg") and Path(name).is_file():
        return Path(name)
    known = sorted(path.stem for path in shipped.glob("*.cfg"))
    if name not in known:
        raise ValueError(f"scenario {name!r} is neither a .cfg file nor one of ViZDoom's: {', '.join(known)}")
    return shipped / f"{name}.cfg"


def _check_target(out: Path, *, overwrite: bool) -> None:
    """Raise the OSError that recording into `out` would raise, before any work is done."""
    check_names_folder(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise NotADirectoryError(f"cannot write {out}: it is a file, and a recording is a folder; choose another name")
    if any(out.iterdir()) and not (out / RECORDING_FILE).is_file():
        raise FileExistsError(f"{out} contains something else than a recording; choose another folder")
    if any(out.iterdir()) and not overwrite:
        raise FileExistsError(f"{out} exists already; pass --overwrite to replace it")
