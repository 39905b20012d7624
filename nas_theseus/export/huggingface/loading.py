"""Exported folders loaded again, as their users load them, and checked."""

from __future__ import annotations

import copy
import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_theseus.errors import ExportError

# Of the largest logit, as for every format.
_TOLERANCE = 1e-4
_BEGUN, _NEW_TOKENS = 16, 8


@contextmanager
def quiet() -> Iterator[None]:
    """Context without transformers' progress bars."""
    logging = importlib.import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_folder(folder: Path) -> Any:
    """The model of an exported folder in float32, in eval mode.

    transformers copies modelling files into a cache of its own; that copy is removed.

    Raises:
        ExportError: transformers cannot load it.
    """
    transformers = importlib.import_module("transformers")
    try:
        with quiet():
            model, told = transformers.AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=torch.float32,
                trust_remote_code=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except OSError as error:  # which elsewhere means that a disk is full
        raise ExportError(f"transformers cannot load the folder: {error}") from error
    forget_code(model)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told.get(kind):
            names = ", ".join(sorted(map(str, told[kind]))[:5])
            raise ExportError(f"the folder's weights do not fit its model: {kind}: {names}")
    return model.eval()


def forget_code(model: Any) -> None:
    """Remove the copy of a model's code that transformers put into its cache."""
    module = type(model).__module__
    if module.startswith("transformers_modules."):
        file = Path(str(sys.modules[module].__file__))
        shutil.rmtree(file.parents[1], ignore_errors=True)


def refuse_other_text(model: Any, ids: Tensor) -> None:
    """Hold a model that generates with a cache to one that reads the whole text for every token.

    Args:
        ids: texts, shape (N, T).

    Raises:
        ExportError: the logits differ.
    """
    begun, tokens = max(1, min(_BEGUN, ids.shape[1] // 2)), ids.shape[1]
    if tokens == 1:
        return
    count = min(_NEW_TOKENS, tokens - begun)
    with_cache, without = (
        _generated(model, ids[:, :begun], count, use_cache) for use_cache in (True, False)
    )
    same = (with_cache.sequences[:, begun:] == without.sequences[:, begun:]).all(dim=0)
    steps = zip(with_cache.logits, without.logits, same.tolist(), strict=True)
    for step, (found, expected, equal) in enumerate(steps):
        difference = float((found - expected).abs().max() / expected.abs().max())
        if not difference <= _TOLERANCE:  # NaN too
            raise ExportError(
                f"logits of token {step + 1} after a text of {begun} tokens differ by "
                f"{difference:.3g} of the largest logit between generation with a cache and "
                "without; a block's state does not hold what it needs (state_elements)"
            )
        if not equal:  # a tie; texts differ from here on
            return


def _generated(model: Any, ids: Tensor, count: int, use_cache: bool) -> Any:
    """What a model writes after the beginnings of texts, without an end."""
    config = copy.deepcopy(model.generation_config)
    config.update(
        eos_token_id=None,
        pad_token_id=0,
        max_length=None,
        max_new_tokens=count,
        do_sample=False,
        use_cache=use_cache,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return model.generate(ids, generation_config=config, attention_mask=torch.ones_like(ids))
