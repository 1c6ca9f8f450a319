"""fit() and checkpoints. Knows no model and no data: an nn.Module, and a loader of batches."""

from vqaudio.training.fit import FitConfig, Loader, TrainingError, fit
from vqaudio.training.launch import processes

__all__ = ["FitConfig", "Loader", "TrainingError", "fit", "processes"]
