"""Audio files, manifests, corpora and batches; knows no model."""
