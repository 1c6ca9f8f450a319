"""Neural network layers, independent of any task."""
