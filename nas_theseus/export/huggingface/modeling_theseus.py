"""A language model whose layers differ: `config.json` lists them, this file holds their code."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from nas_theseus.guide.sublayers import State

# What config.json can name.
KINDS: dict[str, Any] = {}


def build(value: Any, tables: list[list[float]]) -> Any:
    """What config.json describes: objects have a "kind" and the arguments of its constructor."""
    if isinstance(value, list | tuple):
        return tuple(build(one, tables) for one in value)
    if not isinstance(value, dict):
        return value
    if "table" in value:
        return torch.tensor(tables[value["table"]])
    arguments = {name: build(one, tables) for name, one in value.items() if name != "kind"}
    made = KINDS[value["kind"]](*arguments.pop("modules", ()), **arguments)
    if isinstance(made, nn.Module):
        made.description = value  # type: ignore[assignment]
    return made


class TheseusConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of a `TheseusForCausalLM`.

    Args:
        embed: what maps token ids to features; see `build`.
        layers: the layers, in order.
        head: what maps features to logits.
        tables: numbers that the descriptions refer to, such as rotary frequencies.
        use_cache: whether the layers can go on token by token.
        longest: greatest number of tokens. Default: no limit.
        padded: whether the layers only take texts of the greatest length, to which shorter ones
            are then padded.
    """

    model_type = "theseus"

    def __init__(
        self,
        embed: dict[str, Any] | None = None,
        layers: list[dict[str, Any]] | None = None,
        head: dict[str, Any] | None = None,
        tables: list[list[float]] | None = None,
        use_cache: bool = True,
        longest: int | None = None,
        padded: bool = False,
        **kwargs: Any,
    ) -> None:
        self.embed, self.layers, self.head = embed, layers or [], head
        self.tables, self.use_cache = tables or [], use_cache
        self.longest, self.padded = longest, padded
        self.num_hidden_layers = len(self.layers)
        kwargs.pop("num_hidden_layers", None)
        super().__init__(**kwargs)


class TheseusCache:
    """What the layers remember of a batch of texts.

    Texts that begin at the same place form a group, which runs as one batch without its padding.

    Attributes:
        tokens: number of tokens so far, padding included.
        groups: rows of the batch, place of the first token, and one state for each module.
    """

    is_compileable = False

    def __init__(self, starts: Tensor, modules: int) -> None:
        self.tokens = 0
        self.groups: list[tuple[Tensor, int, list[State]]] = [
            ((starts == start).nonzero().flatten(), start, [{} for _ in range(modules)])
            for start in sorted(set(starts.tolist()))
        ]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens so far."""
        del layer_idx
        return self.tokens

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Continue each row from the row `beam_idx` (N,) says, as beam search needs."""
        for rows, _, states in self.groups:
            taken = torch.searchsorted(rows, beam_idx.to(rows.device)[rows])
            for state in states:
                for name, tensor in state.items():
                    if tensor.ndim:  # numbers hold for all rows
                        state[name] = tensor.index_select(0, taken.to(tensor.device))


class TheseusForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The model: an embedding, layers, and a head."""

    config_class = TheseusConfig
    base_model_prefix = ""
    _is_stateful = True  # what is remembered cannot be rolled back
    _tied_weights_keys = {"head.output.weight": "embed.tokens.weight"}  # noqa: RUF012

    def __init__(self, config: TheseusConfig) -> None:
        super().__init__(config)
        self.embed = build(config.embed, config.tables)
        self.layers = nn.ModuleList(build(one, config.tables) for one in config.layers)
        self.head = build(config.head, config.tables)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `forward` makes a TheseusCache

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill buffers that are in no file, such as rotary frequencies, from the description."""
        if module._non_persistent_buffers_set:
            fresh = build(module.description, self.config.tables)
            for name in module._non_persistent_buffers_set:
                module.get_buffer(name).copy_(fresh.get_buffer(name))
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = getattr(self.embed, "tokens", self.embed)
        return found

    def get_output_embeddings(self) -> nn.Module | None:
        return getattr(self.head, "output", None)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: TheseusCache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (N, T, V) of the next tokens, or of the last `logits_to_keep` of them.

        Args:
            input_ids: shape (N, T); those that follow `past_key_values`, if it is given.
            attention_mask: 0 for padding, shape (N, tokens so far + T).
            labels: ids (N, T) for a loss; -100 is ignored.
        """
        if use_cache and not self.config.use_cache:
            raise ValueError("layers of this model cannot go on token by token: use_cache=False")
        if use_cache is None:
            use_cache = self.config.use_cache and labels is None and not self.training
        cache = past_key_values
        if cache is None:
            starts = first_tokens(input_ids, attention_mask)
            cache = TheseusCache(starts, 1 + len(self.layers))
        elif attention_mask is not None:
            first_tokens(input_ids, attention_mask)  # refuses padding after the first tokens
        features = self._features(input_ids, cache, use_cache)
        logits = self.head(features[:, -logits_to_keep:] if logits_to_keep else features)
        loss = None
        if labels is not None:
            size = logits.shape[-1]
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=cache if use_cache else None
        )

    def _features(self, ids: Tensor, cache: TheseusCache, use_cache: bool) -> Tensor:
        """Features (N, T, D) after the last layer; zeros for padding."""
        found = None
        for rows, start, states in cache.groups:
            begin = max(0, start - cache.tokens)
            if begin == ids.shape[1]:
                continue
            self._refuse_too_long(cache.tokens - start + ids.shape[1])
            one = self._run(ids[rows, begin:], states if use_cache else None)
            if len(rows) == len(ids) and begin == 0:
                found = one
                break
            if found is None:
                found = one.new_zeros(*ids.shape, one.shape[-1])
            found[rows, begin:] = one
        if found is None:
            raise ValueError("no text has a token: all of input_ids is padding")
        cache.tokens += ids.shape[1]
        return found

    def _run(self, ids: Tensor, states: list[State] | None) -> Tensor:
        """Features of texts without padding."""
        tokens = ids.shape[1]
        if self.config.padded:
            ids = F.pad(ids, (0, self.config.longest - tokens))
        features = ids
        for place, module in enumerate((self.embed, *self.layers)):
            if states is not None and hasattr(module, "state_elements"):
                features = module(features, states[place])
            else:
                features = module(features)
        return features[:, :tokens]

    def _refuse_too_long(self, tokens: int) -> None:
        if self.config.longest is not None and tokens > self.config.longest:
            raise ValueError(f"a text has {tokens} tokens; this model takes {self.config.longest}")


def first_tokens(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The place of each text's first token, shape (N,)."""
    if attention_mask is None:
        return torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
    if attention_mask.ndim != 2:
        raise ValueError("attention_mask has one number for each token, shape (N, T)")
    mask = attention_mask.bool()
    starts = mask.int().argmax(dim=1)
    ends = mask.shape[1] - mask.flip(1).int().argmax(dim=1)
    if (mask.sum(dim=1) != ends - starts).any():
        raise ValueError(
            "attention_mask has padding inside a text, or a text without tokens. To generate, pad "
            "before the texts: tokenizer.padding_side = 'left'. Where padding's token is in texts, "
            "give generate() the attention_mask of the tokenizer"
        )
    return starts.to(input_ids.device)
