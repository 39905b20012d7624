"""One candidate: converted, finetuned and measured."""
