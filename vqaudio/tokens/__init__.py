"""Token files, and speech to tokens and back in bulk."""
