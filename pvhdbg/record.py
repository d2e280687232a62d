"""`dataclass`, `field`, `replace` and `NamedTuple` as in the standard library, for modules that a short command imports.

Python compiles six functions for each frozen dataclass (0.5 ms), and importing `dataclasses` takes 5 ms; `check` imports 60 such classes.
Here one function is compiled, `__init__`, when the first instance is made; the others are shared. Type checkers see the standard
library's; so do `dataclasses.fields`, `dataclasses.replace` and `inspect.signature`, when they are called.

A `typing.NamedTuple` compiles each annotation (0.1 ms for a class, and 0.7 ms for the first one). Here annotations stay strings.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
    from typing import NamedTuple as NamedTuple
else:

    class _NamedTuple(type):
        def __new__(cls, name: str, bases: tuple[type, ...], own: dict[str, Any]) -> type:
            fields = type(name, (), own).__annotations__
            made = namedtuple(name, fields, defaults=[own[field] for field in fields if field in own], module=own["__module__"])
            made.__annotations__ = fields
            for key, value in own.items():
                if key not in made.__dict__ or key in ("__doc__", "__repr__"):
                    setattr(made, key, value)
            return made

    NamedTuple = type.__new__(_NamedTuple, "NamedTuple", (), {})

    def dataclass(cls: type | None = None, /, *, frozen: bool = False, eq: bool = True, repr: bool = True) -> Any:
        """Make a class of plain values. The options are those of `dataclasses.dataclass`."""
        return (lambda cls: _made(cls, frozen, eq, repr)) if cls is None else _made(cls, frozen, eq, repr)

    def field(*, default: Any = ..., default_factory: Any = ..., repr: bool = True, compare: bool = True) -> Any:
        """The properties of one field. `...` says that there is none."""
        return _Field(default, default_factory, repr, compare)

    def replace(one: Any, /, **changes: Any) -> Any:
        """A copy with some fields changed; also of an instance of the standard library's."""
        return type(one)(**{name: getattr(one, name) for name in type(one).__match_args__} | changes)


class _Field:
    kind: object = None  # the annotation

    def __init__(self, default: Any, factory: Any = ..., repr: bool = True, compare: bool = True) -> None:
        self.default, self.factory, self.repr, self.compare = default, factory, repr, compare


def _made(cls: Any, frozen: bool, eq: bool, repr: bool) -> Any:
    own = vars(cls)
    fields: dict[str, _Field] = dict(getattr(cls, "_record_fields", {}))
    for name, kind in cls.__annotations__.items():
        if str(kind).startswith("ClassVar"):
            continue
        given = own.get(name, ...)
        fields[name] = one = given if isinstance(given, _Field) else _Field(given)
        one.kind = kind
        if one.default is not ...:
            setattr(cls, name, one.default)
        elif name in own:
            delattr(cls, name)
    cls._record_fields = fields
    cls.__match_args__ = tuple(fields)  # type: ignore[misc]  # the class is a parameter
    cls.__init__ = _first_init(cls)
    if repr and "__repr__" not in own:
        cls.__repr__ = _repr
    if eq and "__eq__" not in own:
        compared = [name for name, one in fields.items() if one.compare]
        cls._record_key = staticmethod(attrgetter(*compared) if compared else bool)
        hashed = own.get("__hash__")
        cls.__eq__ = _eq
        cls.__hash__ = hashed or (_hash if frozen else None)
    if frozen:
        cls.__setattr__, cls.__delattr__ = _refuse, _refuse
    cls.__dataclass_fields__ = _Twin(frozen, "__dataclass_fields__")
    cls.__dataclass_params__ = _Twin(frozen, "__dataclass_params__")
    cls.__signature__ = _Signature()
    return cls


def _first_init(cls: Any) -> Callable[..., None]:
    def __init__(self: Any, *values: Any, **named: Any) -> None:
        cls.__init__ = _compiled(cls)
        cls.__init__(self, *values, **named)

    return __init__


def _compiled(cls: Any) -> Callable[..., None]:
    parameters, lines, known = ["self"], ["_record_values = self.__dict__"], {}
    for name, one in cls._record_fields.items():
        known[f"_default_{name}"] = one.default if one.factory is ... else one.factory
        parameters.append(f"{name}=..." if one.factory is not ... else name if one.default is ... else f"{name}=_default_{name}")
        lines.append(
            f"_record_values['{name}'] = {name}"
            + (f" if {name} is not ... else _default_{name}()" if one.factory is not ... else "")
        )
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n " + "\n ".join(lines), known)  # noqa: S102  # of our own names alone
    made: Callable[..., None] = known["__init__"]
    made.__annotations__ = {name: one.kind for name, one in cls._record_fields.items()} | {"return": None}
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name, one in self._record_fields.items() if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: Any) -> Any:
    return self._record_key(self) == self._record_key(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(self._record_key(self))


def _refuse(self: Any, name: str, value: object = None) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: the class is frozen")


class _Twin:
    """What the module `dataclasses` looks for in a class: made when it looks."""

    def __init__(self, frozen: bool, name: str) -> None:
        self._frozen, self._name = frozen, name

    def __get__(self, one: object, cls: Any) -> Any:
        import dataclasses

        rows = []
        for name, field in cls._record_fields.items():
            default = {} if field.default is ... else {"default": field.default}
            default |= {} if field.factory is ... else {"default_factory": field.factory}
            rows.append((name, field.kind, dataclasses.field(repr=field.repr, compare=field.compare, **default)))
        return getattr(dataclasses.make_dataclass(cls.__name__, rows, frozen=self._frozen), self._name)


class _Signature:
    def __get__(self, one: object, cls: Any) -> Any:
        import inspect

        made = inspect.signature(_compiled(cls))
        return made.replace(parameters=list(made.parameters.values())[1:])
