"""Found language models as folders of Hugging Face transformers."""
