"""Artifacts: the files of a quantized model and their schema."""
