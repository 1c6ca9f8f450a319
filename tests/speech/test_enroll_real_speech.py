"""The shipped tokenizer is adapted to a new speaker with half a minute of speech; its tokens do not change."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vqaudio
from vqaudio.speech.enroll import Adapted, adapt
from vqaudio.speech.enroll_config import AdaptConfig
from vqaudio.speech.enroll_data import find_new_speakers
from vqaudio.speech.speakers import SPEAKER_PITCH, SPEAKER_WEIGHT

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data"))
SPEAKER = DATA / "so762/wav16/s9556"  # 10 utterances, 42 s
FILES = sorted(DATA.glob("vctk_mini/wav16/*/*.flac"))

pytestmark = [
    pytest.mark.long,
    pytest.mark.data,
    pytest.mark.skipif(
        not (SPEAKER.is_dir() and FILES),
        reason=f"{DATA} has no so762 or vctk_mini; set VQAUDIO_DATA to their folder",
    ),
]


@pytest.fixture(scope="module")
def model() -> vqaudio.SpeechVQVAE:
    """The shipped model with the first two of its speakers: each costs time in every evaluation."""
    mini = vqaudio.load_model("mini")
    few = vqaudio.SpeechVQVAE(replace(mini.cfg, speakers=mini.speakers[:2]))
    state = mini.state_dict()
    few.load_state_dict({**state, **{key: state[key][:2] for key in (SPEAKER_WEIGHT, *SPEAKER_PITCH)}})
    return few.eval()


@pytest.fixture(scope="module")
def adapted(model: vqaudio.SpeechVQVAE) -> Adapted:
    return adapt(model, find_new_speakers(SPEAKER), AdaptConfig(steps=30, crop_samples=2560))


def test_the_new_embedding_fits_better_than_the_original_ones(adapted: Adapted) -> None:
    """Measured bits per sample: 2.53; before training 2.64, mean embedding 2.63, other speakers 2.66."""
    (speaker,) = adapted.speakers
    assert speaker.conditioning_gap > 0.05
    assert speaker.bits < min(speaker.bits_nearest_speaker, speaker.bits_mean_embedding, speaker.bits_initial) - 0.03


def test_no_token_of_other_speech_changes(model: vqaudio.SpeechVQVAE, adapted: Adapted) -> None:
    assert adapted.model.speakers == (*model.speakers, "s9556")
    assert adapted.model.fingerprint == model.fingerprint
    for path in FILES[::30]:
        before, after = model.tokenize(path), adapted.model.tokenize(path)
        assert torch.equal(before.codes, after.codes), path
        assert before.model == after.model
