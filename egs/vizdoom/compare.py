"""Real and imagined frames after the same prompt and actions, as in figure 7 of the paper.

For each list of actions, a held-out episode is played again in the game up to the prompt and continued with these
actions, and the prior imagines the same from the codes of the prompt. NAME.png is a strip, NAME.gif an animation: in
both, what the game shows stands first and what is imagined second.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from vqaudio.atomic import check_output_folder
from vqaudio.checkpoint import load_model
from vqaudio.images.pictures import save_png
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.sampling.config import SamplingConfig
from vqaudio.video.actions import parse_actions
from vqaudio.video.clips import save_gif, strip
from vqaudio.video.prior import VideoPrior
from vqaudio.video.recorder import play, recorded_with
from vqaudio.video.recording import Recording, open_recording, read_episode
from vqaudio.video.report import check_actions, check_model, check_recording, decode_clips, frame_seconds
from vqaudio.video.sampling import imagine


@dataclass(frozen=True)
class CompareConfig:
    """What is compared."""

    prior: Path = Path("exp/vizdoom/prior")
    """trained prior"""
    model: Path = Path("exp/vizdoom/frames")
    """image model whose codes it was trained on"""
    data: Path = Path("data/vizdoom")
    """recording"""
    out: Path = Path("exp/vizdoom/clips")
    """output folder"""
    actions: tuple[str, ...] = ("forward*24", "right*24")
    """lists of actions; the name of a picture is that of the first action"""
    episode: int = 0
    """which test episode, by its place in the index"""
    first_frame: int = 0
    """first frame of the prompt"""
    every: int = 2
    """the strip shows every so many frames, at least 1"""
    temperature: float = 1.0
    """sampling temperature"""
    seed: int = 0
    """random seed of the sampling"""
    overwrite: bool = False
    """replace existing output"""


def real_frames(recording: Recording, id: str, first: int, context: int, actions: tuple[int, ...]) -> Tensor:
    """(context + S, 3, H, W) uint8: the prompt and what follows if these S actions are taken."""
    recorded = read_episode(recording.path(id)).actions[: first + context - 1]
    frames = play(recorded_with(recording), int(id), [*map(int, recorded), *actions])
    return torch.from_numpy(np.ascontiguousarray(frames[first:])).permute(0, 3, 1, 2)


def main(cfg: CompareConfig) -> None:
    """Write the pictures of every list of actions."""
    if cfg.every < 1:
        raise ValueError(f"--every must be at least 1, got {cfg.every}")
    if not cfg.actions:
        raise ValueError("--actions needs at least one list, such as forward*24")
    prior, model = load_model(cfg.prior, kind=VideoPrior), load_model(cfg.model, kind=ImageVQVAE)
    check_model(prior, model)
    recording, n = open_recording(cfg.data), prior.cfg.context
    check_recording(recording, model)
    check_actions(prior, recording)
    test = recording.episodes["test"]
    if not 0 <= cfg.episode < len(test):
        raise ValueError(f"--episode must lie in 0 to {len(test) - 1}, the test episodes, got {cfg.episode}")
    id, frames = test[cfg.episode].id, test[cfg.episode].frames
    if not 0 <= cfg.first_frame <= frames - n:
        raise ValueError(f"--first-frame must lie in 0 to {frames - n} in episode {id}, got {cfg.first_frame}")
    lists = {text: parse_actions(text, prior.cfg.actions) for text in cfg.actions}
    names = {text: prior.cfg.actions[indices[0]] for text, indices in lists.items()}
    if len(set(names.values())) < len(names):
        raise ValueError(f"the lists of --actions must begin with different actions, got {' '.join(lists)}")
    check_output_folder(
        cfg.out, [f"{name}{suffix}" for name in names.values() for suffix in (".png", ".gif")], cfg.overwrite
    )
    for text, indices in lists.items():
        real = real_frames(recording, id, cfg.first_frame, n, indices)
        prompt = model.encode(real[:n])[None, :, 0]
        recorded = read_episode(recording.path(id)).actions[cfg.first_frame : cfg.first_frame + n - 1]
        actions = torch.tensor([[*map(int, recorded), *indices]])
        codes = imagine(prior, prompt, actions, sampling=SamplingConfig(cfg.temperature, seed=cfg.seed))
        imagined = decode_clips(model, torch.cat([prompt, codes], 1))[0][: len(real)]
        pair = torch.stack([real[: len(imagined)], imagined])
        columns = range(n - 1, len(imagined), cfg.every)
        save_png(cfg.out / f"{names[text]}.png", strip(pair, columns, enlarge=1), overwrite=cfg.overwrite)
        save_gif(cfg.out / f"{names[text]}.gif", pair, frame_seconds(recording), overwrite=cfg.overwrite)
        print(f"{text} after frame {cfg.first_frame + n - 1} of episode {id}: {cfg.out / names[text]}.png and .gif")


if __name__ == "__main__":
    try:
        main(tyro.cli(CompareConfig, description=__doc__))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
