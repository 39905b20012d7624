"""Modules as plain JSON: what each one is, and the arguments of its constructor.

A module can be described if every argument of its constructor is an attribute of the same name, or
has a default. Modules of `torch.nn` and of `guide.sublayers` are such. Blocks that a family makes
from shapes are described by these shapes and the family's hyperparameters instead.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from nas_theseus.blocks import BlockFamily
from nas_theseus.blocks.family import Stitched
from nas_theseus.errors import ExportError

Description: TypeAlias = dict[str, Any]
# By their modules, in order.
_CONTAINERS = (nn.Sequential, nn.ModuleList)


class Describer:
    """Describes the modules of one network.

    Attributes:
        kinds: what the descriptions name: classes, and functions that make modules.
        tables: numbers of tensors that the descriptions refer to, each once.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, Callable[..., Any]] = {}
        self.tables: list[list[float]] = []

    def block(
        self, module: nn.Module, family: BlockFamily, arguments: Mapping[str, Any]
    ) -> Description:
        """Describe a block of a network.

        Args:
            arguments: inlet, outlet and hyperparameters, for families that build from shapes.

        Raises:
            ExportError: the block cannot be described.
        """
        if family.of_part or family.factory is None:
            return self.module(module)
        inner = isinstance(module, Stitched) and family.factory is not Stitched
        made = {"kind": self._named(family.factory), **self._values(arguments)}
        if getattr(family, "styled", False):  # its blocks follow the guide's norms and units
            made["style"] = self._value(getattr(family, "style", None), "style of a block")
        if not inner:
            return made
        outlet = self._value(arguments["outlet"], "outlet of a block")
        return {"kind": self._named(Stitched), "inner": made, "outlet": outlet}

    def module(self, module: nn.Module) -> Description:
        """Describe a module by the arguments of its constructor.

        Raises:
            ExportError: an argument is kept nowhere.
        """
        kind = type(module)
        found: Description = {"kind": self._named(kind)}
        if isinstance(module, _CONTAINERS):
            return {**found, "modules": [self.module(one) for one in module]}
        for name, parameter in inspect.signature(kind).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if not hasattr(module, name):
                if parameter.default is not parameter.empty:
                    continue
                raise ExportError(
                    f"a module of the class {kind.__name__} cannot be described: the argument "
                    f"{name!r} of its constructor is no attribute of it; set self.{name} there"
                )
            given = getattr(module, name)
            if name == "bias":  # torch's modules have a tensor or None where a bool was given
                given = given if isinstance(given, bool) else given is not None
            value = self._value(given, f"argument {name!r} of {kind.__name__}")
            if parameter.default is parameter.empty or value != parameter.default:
                found[name] = value
        return found

    def _values(self, arguments: Mapping[str, Any]) -> Description:
        return {name: self._value(one, f"argument {name!r}") for name, one in arguments.items()}

    def _value(self, value: Any, what: str) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, tuple | list):
            return [self._value(one, what) for one in value]
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.ndim == 1:
            numbers = value.detach().cpu().tolist()
            if numbers not in self.tables:
                self.tables.append(numbers)
            return {"table": self.tables.index(numbers)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {
                one.name: getattr(value, one.name)
                for one in dataclasses.fields(value)
                if getattr(value, one.name) != one.default
            }
            return {"kind": self._named(type(value)), **self._values(fields)}
        raise ExportError(f"{what} is a {type(value).__name__}, which JSON cannot hold")

    def _named(self, kind: Callable[..., Any]) -> str:
        """The name of a kind in descriptions, such as "Attention" or "nn.Linear"."""
        name = getattr(kind, "__qualname__", f"a {type(kind).__name__}")
        if getattr(nn, name, None) is kind:
            name = f"nn.{name}"
        elif not name.isidentifier():
            raise ExportError(
                f"{name} cannot be copied into a modelling file; define it as a class or function "
                "at the top of its module"
            )
        if self.kinds.setdefault(name, kind) is not kind:
            other = self.kinds[name]
            raise ExportError(
                f"two different classes are called {name}: in {kind.__module__} and in "
                f"{other.__module__}; rename one of them"
            )
        return name


def tied(modules: list[nn.Module]) -> bool:
    """Whether the last module's output map has the weights of the first module's embedding."""
    tokens, output = getattr(modules[0], "tokens", None), getattr(modules[-1], "output", None)
    return tokens is not None and getattr(output, "weight", None) is tokens.weight
