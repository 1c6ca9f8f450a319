"""A tiny recording and tiny models that several tests share; no game is needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from vqaudio.images.autoencoder import ImageCoderConfig
from vqaudio.images.pixelcnn import PixelCNNConfig
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.video.crops import CodeSequences
from vqaudio.video.prior import ContextEncoderConfig, VideoPrior, VideoPriorConfig
from vqaudio.video.recording import EPISODES_FOLDER, Episode, EpisodeFacts, Recording, write_episode, write_recording

ACTIONS = ("left", "right", "forward")
SIZE, SIDE, K = 16, 4, 6  # pixels, positions, codes


def _scene(width: int) -> np.ndarray:
    """(SIZE, width, 3) uint8: a wide picture of random stripes, past which a camera pans."""
    rng = np.random.default_rng(5)
    columns = rng.integers(0, 256, (1, width, 3)).repeat(SIZE, 0)
    return columns.astype(np.uint8)


def _walk(length: int, seed: int) -> Episode:
    """left and right move the picture by two pixels, forward by none."""
    rng, scene, place, frames = np.random.default_rng(seed), _scene(400), 200, []
    actions = rng.integers(0, len(ACTIONS), length - 1)
    for action in [*actions, 2]:
        frames.append(scene[:, place : place + SIZE])
        place += (-2, 2, 0)[action]
    return Episode(np.stack(frames), actions.astype(np.int64))


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Six episodes of 12 to 17 frames of 16 x 16 pixels. All tests share it: do not write to it."""
    folder = tmp_path_factory.mktemp("video") / "walk"
    (folder / EPISODES_FOLDER).mkdir(parents=True)
    facts = []
    for number in range(6):
        episode = _walk(12 + number, number)
        write_episode(folder / EPISODES_FOLDER / f"{number:05d}.npz", episode)
        facts.append(EpisodeFacts(f"{number:05d}", len(episode.frames), "length"))
    source = {"environment": "stripes", "frame_skip": 2}
    return write_recording(folder, facts, ACTIONS, SIZE, source, valid=0.2, test=0.2, seed=0)


@pytest.fixture(scope="session")
def frame_model(recording: Recording, randomise: Callable[..., nn.Module]) -> ImageVQVAE:
    """16 x 16 pixels, one code at each of 4 x 4 positions. All tests share it: do not change it."""
    coder = ImageCoderConfig(channels=6, blocks=1, num_maps=1, dim=3, num_mixtures=2)
    quantizer = VectorQuantizerConfig(codebook_size=K, dim=3)
    torch.manual_seed(0)
    model = ImageVQVAE(ImageConfig(size=SIZE, coder=coder, quantizer=quantizer))
    randomise(model.encoder, seed=1)
    randomise(model.decoder, seed=2)
    frames = np.concatenate([episode.frames for episode in recording.read("train")])
    model(torch.from_numpy(frames).permute(0, 3, 1, 2))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def prior_config(frame_model: ImageVQVAE) -> VideoPriorConfig:
    """Two context frames, K = 6."""
    return VideoPriorConfig(
        map_shape=(SIDE, SIDE),
        actions=ACTIONS,
        model=frame_model.fingerprint,
        context=2,
        action_dim=4,
        past=ContextEncoderConfig(code_dim=3, channels=6, layers=2),
        net=PixelCNNConfig(codebook_size=K, channels=8, layers=3, kernel_size=5, head_channels=16),
    )


@pytest.fixture(scope="session")
def prior(prior_config: VideoPriorConfig, randomise: Callable[..., nn.Module]) -> VideoPrior:
    """In double precision and evaluation mode. All tests share it: do not change it."""
    made = VideoPrior(prior_config).double().eval()
    randomise(made)
    return made.requires_grad_(False)


@pytest.fixture(scope="session")
def sequences() -> CodeSequences:
    """Three episodes of 7, 3 and 9 frames of 4 x 4 random codes of 6."""
    generator = torch.Generator().manual_seed(3)
    lengths = (7, 3, 9)
    codes = torch.randint(K, (sum(lengths), SIDE, SIDE), generator=generator)
    actions = tuple(torch.randint(len(ACTIONS), (length - 1,), generator=generator) for length in lengths)
    return CodeSequences(codes, actions, K)
