"""Check and register users' own similarities and schedules, and name them for recipes.

A recipe has the name of a similarity or schedule as text. A user's own object is registered, and
the recipe has ``<name>@<fingerprint>``. So the recipe's id and the keys of its blocks change with
the object's code, and the recipe can be written as JSON.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas_theseus.errors import ConversionError, TheseusError
from nas_theseus.values.registers import SCHEDULES, SIMILARITIES, Register

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_VERSION = re.compile(rf"{_NAME.pattern}@[0-9a-f]{{8}}")


@dataclass(frozen=True)
class Kind:
    """Requirements on the members of a register.

    Attributes:
        methods: required methods with their arguments.
        facts: required attributes besides `name`.
    """

    register: Register
    methods: Mapping[str, tuple[str, ...]]
    facts: tuple[str, ...]


SIMILARITY = Kind(
    SIMILARITIES,
    methods={"prepare": ("guide",), "loss": ("features", "prepared")},
    facts=("aligned_basis", "minimum_examples"),
)
SCHEDULE = Kind(
    SCHEDULES,
    methods={"stages": ("order", "replaced")},
    facts=("is_control", "fresh", "taught"),
)


def is_version(name: str) -> bool:
    """Whether `recorded_name` made this name for a user's own object."""
    return _VERSION.fullmatch(name) is not None


def recorded_name(kind: Kind, given: object) -> str:
    """The text in a recipe for a name or an object; registers a user's own object.

    Args:
        given: a name from the register; a name with fingerprint from a recipe; an object that
            meets the kind's requirements, or a class that makes one without arguments.

    Returns:
        The name for members of the package; ``<name>@<fingerprint>`` for all others.

    Raises:
        UnknownNameError: no member has this name, or the object's name is taken.
        ConversionError: the object does not meet the requirements, or has no fingerprint.
    """
    register = kind.register
    name: object
    if isinstance(given, str):
        if given not in register.own:
            register[given]  # raises if there is no such member
            return given
        name, member = given, _made(kind, register.own[given])
    else:
        member = _made(kind, given)
        name = getattr(member, "name", None)
        if name is None:
            raise ConversionError(
                f"a {register.kind} is a name ({register.one_of}) or an object of your own; "
                f"{member!r} has no attribute 'name': add one, such as name = \"mine\""
            )
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConversionError(
            f"{name!r} cannot be the name of a {register.kind}: use letters, digits, '-', '_' "
            "and '.'"
        )
    _check(kind, name, member)
    # Imports torch, so only if needed: other commands start more quickly without it.
    from nas_theseus.values.member_fingerprint import member_fingerprint

    mark = member_fingerprint(register.kind, name, member)
    register.add(name, member)
    return register.add_version(name, mark, member)


def with_options(register: Register, given: object, options: Mapping[str, Any]) -> Any:
    """A member with changed fields of its dataclass.

    Args:
        given: a name, or the member itself.
        options: new values by field.

    Raises:
        UnknownNameError: no member has this name.
        ConversionError: the member has no such option, or the value is out of range.
    """
    member: Any = register[given] if isinstance(given, str) else given
    if isinstance(member, type):
        member = member()
    if not options:
        return member
    name = given if isinstance(given, str) else member.name
    known = [
        field.name
        for field in (dataclasses.fields(member) if dataclasses.is_dataclass(member) else ())
        if field.init and field.name != "name"
    ]
    if strange := sorted(set(options) - set(known)):
        remedy = (
            f"its options are {', '.join(known)}"
            if known
            else "its options are the fields of its dataclass, and it has none"
        )
        raise ConversionError(
            f"{register.kind} {name!r} has no option {', '.join(strange)}; {remedy}"
        )
    try:
        return dataclasses.replace(member, **options)
    except TheseusError:
        raise
    except Exception as error:  # the user's class may raise anything
        values = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise ConversionError(
            f"{register.kind} {name!r} refuses {values}: {type(error).__name__}: {error}"
        ) from error


def _made(kind: Kind, given: object) -> Any:
    """The object itself, or an instance of a class made without arguments."""
    if not isinstance(given, type):
        return given
    try:
        return given()
    except Exception as error:  # the user's class may raise anything
        raise ConversionError(
            f"{kind.register.kind} {given.__name__}: {given.__name__}() fails "
            f"({type(error).__name__}: {error}); pass an instance instead of the class, or give "
            "every field a default"
        ) from error


def _check(kind: Kind, name: str, member: object) -> None:
    """Refuse an object that lacks methods or attributes; all are reported together."""
    lacking = []
    for method, arguments in kind.methods.items():
        found = getattr(member, method, None)
        if not callable(found) or not _takes(found, len(arguments)):
            lacking.append(f"a method {method}({', '.join(arguments)})")
    lacking += [f"an attribute {fact!r}" for fact in kind.facts if not hasattr(member, fact)]
    if lacking:
        raise ConversionError(
            f"{kind.register.kind} {name!r} ({type(member).__name__}) lacks {', '.join(lacking)}: "
            f"add what is missing, as in nas_theseus/{kind.register.folder}"
        )


def _takes(method: Any, count: int) -> bool:
    try:
        inspect.signature(method).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # built-in functions have no signature
        return True
    return True
