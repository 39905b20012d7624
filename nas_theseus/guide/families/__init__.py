"""Families of transformers that `huggingface_guide` can cut, one file each."""
