"""fit() and checkpoints. Knows no model and no data: an nn.Module, and a loader of batches."""

from vqaudio.training.fit import FitConfig, Loader, TrainingError, fit

__all__ = ["FitConfig", "Loader", "TrainingError", "fit"]
