"""Averages what the stage context trains: python recipes/average.py exp/context exp/closer --out exp/averaged.

For a model before and after it was fine-tuned: the mean keeps most of what each does better.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from vqaudio.checkpoint import load_model, save_model
from vqaudio.speech.averaging import averaged
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.training import run_recipe


@dataclass(frozen=True)
class AverageConfig:
    """Which models are averaged."""

    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """two models or more with the same codes: shipped names, folders or Hugging Face Hub ids. Options, speakers and
    vocoders are those of the last one, the fine-tuned one, which must be of the stage context"""
    out: Path = Path("exp/averaged")
    """new folder for the averaged model"""


def main() -> None:
    cfg = tyro.cli(AverageConfig, description=__doc__)
    if (cfg.out / "config.json").exists():
        raise ValueError(f"{cfg.out} is a model already; give another --out")
    if len(cfg.models) < 2:
        raise ValueError(f"give two models or more (recipes/average.py MODEL MODEL --out DIR), got {len(cfg.models)}")
    model = averaged([load_model(name, kind=SpeechVQVAE) for name in cfg.models])
    save_model(model, cfg.out)
    print(f"{cfg.out} (codes of {model.fingerprint}) is the average of {', '.join(cfg.models)}")


if __name__ == "__main__":
    sys.exit(run_recipe(main))
