"""Models in formats of others: ONNX and Hugging Face transformers."""
