"""Audio files, manifests, corpora, alignments and training batches; independent of any model."""
