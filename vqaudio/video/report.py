"""Evaluation of a video prior on held-out episodes, and clips that it imagines.

Shapes: R continuations, P frames of the prompt, S imagined frames, h x w positions, H x W pixels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vqaudio.atomic import check_output_folder, check_writable, save_json
from vqaudio.images.codes import CodeMaps
from vqaudio.images.files import check_pillow
from vqaudio.images.pictures import save_png
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.sampling.config import SamplingConfig, check_count
from vqaudio.training.health import TRAINED, assess
from vqaudio.video.actions import parse_actions
from vqaudio.video.clips import check_gif_width, decode_frames, save_gif, strip
from vqaudio.video.crops import CodeSequences, code_sequences
from vqaudio.video.metrics import fit_baselines, video_prior_metrics
from vqaudio.video.prior import VideoPrior
from vqaudio.video.recording import Recording, is_recording, open_recording, read_episode
from vqaudio.video.rollouts import action_sensitivity, drift, roll_out
from vqaudio.video.sampling import imagine

REPORT_FILE, STRIP_FILE, DRIFT_FILE = "report.json", "imagined.png", "drift.gif"
BATCH_SIZE = 64
TEST_FRAMES = 1024  # of the bits per code, evenly spaced
SHIFT_CONTEXTS, DRIFT_CONTEXTS, DRIFT_STEPS = 128, 16, 50
STRIP_CONTEXTS, GIF_CONTEXTS = 4, 2  # shown in the pictures
GIF_COLORS = 64  # for a small file
TICS_PER_SECOND = 35  # of ViZDoom


def evaluate_video(
    prior: VideoPrior, model: ImageVQVAE, data: Path, out: Path, *, seed: int = 0, overwrite: bool = False
) -> dict[str, Any]:
    """The metrics of `video_prior_metrics`, `action_sensitivity` and `drift` on frames of the test episodes.

    Writes report.json and two pictures of continuations with the recorded actions, up to 50 frames long. imagined.png:
    four continuations in pairs of rows, the real frames above the imagined ones, twelve frames from left to right.
    drift.gif: the first two of them in pairs side by side, the real one to the left of the imagined one.

    Raises ValueError for a prior, model or recording that do not belong together.
    """
    check_model(prior, model)
    recording = open_recording(data)
    check_recording(recording, model)
    check_actions(prior, recording)
    if not recording.episodes["test"]:
        raise ValueError(f"{data} has no test episodes; record it again with a larger --test")
    check_pillow()
    check_output_folder(out, [REPORT_FILE, STRIP_FILE, DRIFT_FILE], overwrite)
    train, test = (_encoded(recording, split, model) for split in ("train", "test"))
    steps = min(DRIFT_STEPS, max(test.lengths, default=0) - prior.cfg.context)
    sampling = SamplingConfig(seed=seed)
    metrics: dict[str, Any] = dict(video_prior_metrics(prior, test, fit_baselines(train), TEST_FRAMES))
    metrics["verdict"] = str(assess(metrics, 0, TRAINED))
    metrics |= action_sensitivity(prior, model, test, SHIFT_CONTEXTS, sampling)
    rollouts = roll_out(prior, test, max(1, steps), DRIFT_CONTEXTS, sampling)
    metrics["drift"] = drift(rollouts, model, test.codes)
    metrics["frames"] = len(test.codes)
    contexts = len(rollouts.real)
    shown = torch.arange(min(STRIP_CONTEXTS, contexts)) * contexts // min(STRIP_CONTEXTS, contexts)
    rows = torch.stack([rollouts.real[shown], rollouts.imagined[shown]], 1).flatten(0, 1)  # (2 R, S, h, w)
    pictures = decode_clips(model, rows)
    save_png(out / STRIP_FILE, strip(pictures), overwrite=overwrite)
    clips = pictures[: 2 * GIF_CONTEXTS]
    save_gif(out / DRIFT_FILE, clips, frame_seconds(recording), enlarge=1, colors=GIF_COLORS, overwrite=overwrite)
    save_json(out / REPORT_FILE, {name: _or_null(value) for name, value in metrics.items()}, overwrite=overwrite)
    return metrics


def sample_clip(
    prior: VideoPrior,
    model: ImageVQVAE,
    out: Path,
    actions: str,
    prompt: Path,
    first_frame: int = 0,
    count: int = 1,
    sampling: SamplingConfig = SamplingConfig(),
    *,
    batch_size: int = BATCH_SIZE,
    overwrite: bool = False,
) -> list[Path]:
    """Imagine what follows a prompt if the actions ("forward*20,left*10") are taken -> the files written.

    `out`, a .gif, shows the prompt and `count` continuations side by side; a strip of them, one row each, is written
    beside it as .png. prompt: an episode of a recording, RECORDING/episodes/ID.npz, from `first_frame` on.
    """
    check_model(prior, model)
    check_count(count)
    check_gif_width(count, model.cfg.size)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if out.suffix.lower() != ".gif":
        raise ValueError(f"a clip is written as a GIF: --out must end in .gif, got {out}")
    picture, chosen = out.with_suffix(".png"), parse_actions(actions, prior.cfg.actions)
    for path in (out, picture):
        check_writable(path, overwrite=overwrite)
    frames, given, seconds = _prompt(prior, model, prompt, first_frame)
    taken, parts = torch.cat([given, torch.tensor(chosen)]).to(prior.device), []
    for first in tqdm(range(0, count, batch_size), desc="imagining", unit="batch", disable=None):
        rows = range(first, min(first + batch_size, count))
        generators = [torch.Generator().manual_seed((sampling.seed + row) % 2**32) for row in rows]
        start = frames.to(prior.device).expand(len(rows), -1, -1, -1)
        actions_of_rows = taken.expand(len(rows), -1)
        imagined = imagine(prior, start, actions_of_rows, sampling=sampling, generator=generators)
        parts.append(torch.cat([start, imagined], 1).cpu())
    clips = decode_clips(model, torch.cat(parts))
    save_gif(out, clips, seconds, overwrite=overwrite)
    save_png(picture, strip(clips[:, prior.cfg.context - 1 :]), overwrite=overwrite)
    return [out, picture]


def decode_clips(model: ImageVQVAE, codes: Tensor) -> Tensor:
    """Codes (R, T, h, w) -> frames (R, T, 3, H, W) uint8 on the CPU."""
    return decode_frames(model, codes.flatten(0, 1)).unflatten(0, codes.shape[:2])


def check_model(prior: VideoPrior, model: ImageVQVAE) -> None:
    """Raises ValueError if the prior was trained on codes of another model."""
    if prior.cfg.model != model.fingerprint:
        raise ValueError(
            f"the VideoPrior was trained on codes of model {prior.cfg.model}, this is model {model.fingerprint}; give "
            "the model that it was trained with"
        )


def check_recording(recording: Recording, model: ImageVQVAE) -> None:
    """Raises ValueError if the frames have another size than the images of the model, or it several codes a place."""
    if model.cfg.map_shape[0] != 1:
        raise ValueError(
            f"a video prior models one code per position, but the model has {model.cfg.map_shape[0]}; train one with "
            "--model.coder.num-maps 1"
        )
    if recording.size != model.cfg.size:
        raise ValueError(
            f"the frames of {recording.folder} have {recording.size} x {recording.size} pixels, and the model is for "
            f"{model.cfg.size} x {model.cfg.size}; record or train with the same size"
        )


def frame_seconds(recording: Recording) -> float:
    """Seconds of the game from one frame to the next."""
    return recording.source.get("frame_skip", 1) / TICS_PER_SECOND


def _prompt(prior: VideoPrior, model: ImageVQVAE, path: Path, first: int) -> tuple[Tensor, Tensor, float]:
    """Codes (P, h, w) of the prompt, P the prior's context, its actions (P - 1,), and the seconds of a frame."""
    episode, folder, n = read_episode(path), path.resolve().parent.parent, prior.cfg.context
    if not is_recording(folder):
        raise ValueError(f"{path} must lie in a recording of vqaudio prepare vizdoom: RECORDING/episodes/ID.npz")
    recording = open_recording(folder)
    check_recording(recording, model)
    check_actions(prior, recording)
    frames = len(episode.frames)
    if not 0 <= first <= frames - n:
        allowed = f"must lie in 0 to {frames - n}" if frames >= n else "cannot be chosen"
        raise ValueError(
            f"the first frame of the prompt {allowed}, got {first}: {path} has {frames} frames, and {n} are needed"
        )
    pixels = torch.from_numpy(episode.frames[first : first + n]).permute(0, 3, 1, 2)
    codes = model.encode(pixels.to(model.device))[:, 0].cpu()
    return codes, torch.from_numpy(episode.actions[first : first + n - 1]), frame_seconds(recording)


def _or_null(value: Any) -> Any:
    """NaN, which JSON does not have, -> None."""
    return None if isinstance(value, float) and math.isnan(value) else value


def check_actions(prior: VideoPrior, recording: Recording) -> None:
    """Raises ValueError if the recording has other actions than the prior."""
    if recording.actions != prior.cfg.actions:
        raise ValueError(
            f"the recording has the actions {', '.join(recording.actions)}, but the prior has "
            f"{', '.join(prior.cfg.actions)}; give a recording of the same scenario"
        )


def _encoded(recording: Recording, split: str, model: ImageVQVAE) -> CodeSequences:
    """Codes of all frames of a split."""
    codes = []
    for episode in recording.read(split):
        for part in torch.from_numpy(episode.frames).permute(0, 3, 1, 2).split(BATCH_SIZE):
            codes.append(model.encode(part.to(model.device)).cpu())
    if not codes:
        raise ValueError(f"{recording.folder} has no {split} episodes; record it again with larger --valid and --test")
    maps = CodeMaps(torch.cat(codes), torch.zeros(0), ("frame",), model.codebook_size, model.fingerprint, source=split)
    return code_sequences(recording, split, maps)
