"""Adds pitch tokens to a trained speech model: python recipes/pitch_tokens.py --out exp/mini_pitch [--flags].

The codebook is made from the pitch of training speech in about a minute; nothing else is trained, so that tokens of the
model stay valid. A model that is trained with `model.pitch_tokens.frames` has pitch tokens already.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from vqaudio.checkpoint import load_model, save_model
from vqaudio.data.audio import read_audio
from vqaudio.data.manifest import read_manifest
from vqaudio.nn.pitch_quantizer import PitchQuantizerConfig
from vqaudio.speech.describe import pitch_facts
from vqaudio.speech.frontend_init import evenly_spaced
from vqaudio.speech.pitch_init import with_pitch_tokens
from vqaudio.training import run_recipe

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class AddPitchTokensConfig:
    """Which model gets pitch tokens, and from which speech."""

    model: str = "mini"
    """model that predicts pitch: a shipped name, a folder or a Hugging Face Hub id"""
    out: Path = Path("exp/mini_pitch")
    """new folder for the model with pitch tokens"""
    train: tuple[Path, ...] = (Path("egs/mini/train.jsonl"),)
    """manifests; the codebook is made from at most 512 of their utterances"""
    pitch_tokens: PitchQuantizerConfig = field(default_factory=lambda: PitchQuantizerConfig(frames=4))
    float16: tuple[str, ...] = ()
    """parts of the model that are written in half precision, such as decoder; as of `save_model`"""


def main() -> None:
    cfg = tyro.cli(AddPitchTokensConfig, description=__doc__)
    if (cfg.out / "config.json").exists():
        raise ValueError(f"{cfg.out} is a model already; give another --out")
    model = load_model(cfg.model)
    found = [path if path.exists() else ROOT / path for path in cfg.train]
    utterances = [utterance for path in found for utterance in read_manifest(path)]
    chosen = [utterances[i].path for i in evenly_spaced(len(utterances))]
    wavs = (torch.from_numpy(read_audio(path, model.sample_rate)) for path in chosen)
    extended = with_pitch_tokens(model, cfg.pitch_tokens, wavs)
    save_model(extended, cfg.out, float16=cfg.float16)
    print(f"{cfg.out} (codes of {extended.fingerprint}) has pitch tokens: {pitch_facts(extended)}")


if __name__ == "__main__":
    sys.exit(run_recipe(main))
