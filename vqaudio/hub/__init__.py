"""Models for other programs: ONNX and Hugging Face transformers."""
