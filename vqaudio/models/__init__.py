"""What is trained: forward(**batch) -> (loss, logs)."""
