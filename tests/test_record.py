"""`pvhdbg.record` against the standard library's dataclasses: the same classes, made by both, behave alike."""

from __future__ import annotations  # `record` takes a field's type as text, as each module of the package has it

import copy
import dataclasses
import inspect
import pickle
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import pytest

from pvhdbg import record
from pvhdbg.model import MemoryHole, Vmm


def made(by: ModuleType) -> dict[str, Any]:
    @by.dataclass
    class Open:
        a: int
        b: list[int] = by.field(default_factory=list)

    @by.dataclass(frozen=True)
    class Frozen:
        a: int
        b: str = "b"
        c: bytes = by.field(default=b"", repr=False, compare=False)
        KINDS: ClassVar[int] = 3

        def __post_init__(self) -> None:
            if self.a < 0:
                raise ValueError("a")

    @by.dataclass(frozen=True)
    class Heir(Frozen):
        b: str = "heir"
        d: int = 4

        def __repr__(self) -> str:
            return "an heir"

    @by.dataclass(frozen=True, eq=False)
    class Same:
        a: int

    @by.dataclass(frozen=True)
    class Empty:
        pass

    @by.dataclass
    class Named:
        _values: int = 2
        values: list[int] = by.field(default_factory=list)
        known: dict[str, int] = by.field(default_factory=dict)
        default_values: int = 3

    return {one.__name__: one for one in (Open, Frozen, Heir, Same, Empty, Named)}


def outcome(what: Callable[[], object]) -> object:
    try:
        return what()
    except Exception as error:
        kinds: tuple[type[Exception], ...] = (AttributeError, TypeError, ValueError, Exception)
        return next(kind for kind in kinds if isinstance(error, kind))


CASES: dict[str, Callable[[dict[str, Any]], object]] = {
    "repr": lambda of: [repr(of["Frozen"](1, c=b"x")), repr(of["Open"](1)), repr(of["Heir"](1)), repr(of["Empty"]())],
    "values": lambda of: [
        (one.a, one.b, one.d, one.c) for one in (of["Heir"](1), of["Heir"](1, "x", b"y", 5), of["Heir"](a=7, d=1))
    ],
    "a class' own defaults": lambda of: (of["Frozen"].b, of["Frozen"].KINDS, hasattr(of["Open"], "b")),
    "names that the making uses": lambda of: [repr(of["Named"]()), repr(of["Named"](1, [1], {"a": 1}, 4))],
    "equal": lambda of: [
        of["Frozen"](1, c=b"x") == of["Frozen"](1),
        of["Frozen"](1) == of["Frozen"](2),
        of["Frozen"](1) == of["Heir"](1),
    ],
    "identity": lambda of: [of["Same"](1) == of["Same"](1), of["Empty"]() == of["Empty"]()],
    "hash": lambda of: len({of["Frozen"](1), of["Frozen"](1, c=b"x"), of["Frozen"](2)}),
    "no hash": lambda of: hash(of["Open"](1)),
    "a list for each": lambda of: of["Open"](1).b is of["Open"](1).b,
    "changed": lambda of: setattr(of["Open"](1), "a", 2),
    "frozen": lambda of: setattr(of["Frozen"](1), "a", 2),
    "not deleted": lambda of: delattr(of["Heir"](1), "a"),
    "too few": lambda of: of["Frozen"](),
    "too many": lambda of: of["Empty"](1),
    "unknown": lambda of: of["Frozen"](1, e=2),
    "twice": lambda of: of["Frozen"](1, a=2),
    "refused by itself": lambda of: of["Frozen"](-1),
    "replaced": lambda of: repr(dataclasses.replace(of["Frozen"](1), a=2)),
    "replaced and refused": lambda of: dataclasses.replace(of["Frozen"](1), a=-2),
    "as a mapping": lambda of: dataclasses.asdict(of["Heir"](1)),
    "fields": lambda of: [(one.name, one.type, one.repr) for one in dataclasses.fields(of["Heir"])],
    "signature": lambda of: [str(inspect.signature(of[name])) for name in ("Empty", "Same", "Heir")],
    "parameters": lambda of: list(inspect.signature(of["Heir"]).parameters),
    "matched": lambda of: of["Heir"].__match_args__,
    "copied": lambda of: copy.copy(of["Frozen"](1, c=b"x")).c,
}


@pytest.mark.parametrize("case", CASES)
def test_it_does_what_the_standard_library_does(case: str) -> None:
    assert outcome(lambda: CASES[case](made(record))) == outcome(lambda: CASES[case](made(dataclasses)))


def test_an_instance_is_pickled() -> None:
    assert pickle.loads(pickle.dumps(Vmm("QEMU", "7.2"))) == Vmm("QEMU", "7.2")


def test_replace_takes_both() -> None:
    for by in (dataclasses, record):
        assert record.replace(made(by)["Frozen"](1, "x"), a=2).b == "x"
    hole = record.replace(MemoryHole(0, 1, "r"), address=5)
    assert (hole.address, hole.reason) == (5, "r")


class Pair(record.NamedTuple):
    """Two values."""

    a: int
    b: str | None = None

    @property
    def both(self) -> str:
        return f"{self.a}{self.b}"

    def __repr__(self) -> str:
        return "a pair"


class Usual(typing.NamedTuple):
    """Two values."""

    a: int
    b: str | None = None


class Nothing(record.NamedTuple):
    pass


def test_a_named_tuple_is_the_standard_librarys() -> None:
    one = Pair(1, "x")
    assert tuple(one) == tuple(Usual(1, "x"))
    assert one._replace(b=None) == Pair(1)
    for name in ("_fields", "_field_defaults", "__doc__", "__module__", "__match_args__"):
        assert getattr(Pair, name) == getattr(Usual, name)
    assert typing.get_type_hints(Pair) == typing.get_type_hints(Usual)
    assert inspect.signature(Pair).parameters.keys() == inspect.signature(Usual).parameters.keys()
    assert (one.both, repr(one), pickle.loads(pickle.dumps(one)), copy.copy(one)) == ("1x", "a pair", one, one)
    assert Nothing() == ()
    with pytest.raises(TypeError):
        Pair()  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        one.a = 2  # type: ignore[misc]
