"""The training loop `fit` and the checkpoints of a run; independent of any model and data set."""

from vqaudio.training.fit import FitConfig, Loader, TrainingError, fit
from vqaudio.training.launch import processes, run_recipe

__all__ = ["FitConfig", "Loader", "TrainingError", "fit", "processes", "run_recipe"]
