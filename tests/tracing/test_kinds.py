"""Kinds are enum members in our code: a comparison with a bare string would hide a typo, from mypy too where the enum is a `str`."""

import ast
from pathlib import Path

import pytest

import pvhdbg
from pvhdbg.tracing.addresses import AddressClass
from pvhdbg.tracing.death import DeathKind
from pvhdbg.tracing.engines.engine import TraceEnd
from pvhdbg.tracing.event import EndReason, FaultKind
from pvhdbg.tracing.opcodes import SYSTEM, Effect, effect_of, is_system

PACKAGE = Path(pvhdbg.__file__).parent
ROOMS = ("tracing", "driver")
WORDS = {one.value for kinds in (AddressClass, DeathKind, EndReason, FaultKind) for one in kinds}


def compared_strings(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and text of each comparison of `.kind` or `.why` with one of WORDS."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Attribute) and side.attr in ("kind", "why") for side in sides):
                found += [
                    (part.lineno, part.value)
                    for side in sides
                    for part in ast.walk(side)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value in WORDS
                ]
    return found


@pytest.mark.parametrize(
    "path", sorted(path for room in ROOMS for path in (PACKAGE / room).rglob("*.py")), ids=lambda path: path.stem
)
def test_no_kind_is_compared_with_a_string(path: Path) -> None:
    found = compared_strings(ast.parse(path.read_text()))
    assert not [one for one in found if one[1] != "ram" and one[1] != "rom"], path  # those two are a VMM's words for its memory


def test_the_check_finds_such_a_comparison() -> None:
    assert compared_strings(ast.parse('end.why in ("count", "enough")')) == [(1, "count"), (1, "enough")]
    assert compared_strings(ast.parse('"alive" == death.kind')) == [(1, "alive")]


def test_words_that_users_of_the_api_compare_with() -> None:
    words: list[str] = [EndReason.ENOUGH, FaultKind.TRIPLE_FAULT]
    assert words == ["enough", "triple fault"]


@pytest.mark.parametrize("why", EndReason)
def test_every_end_has_words(why: EndReason) -> None:
    assert TraceEnd(why).words
    assert "{" not in TraceEnd(why, None, 0x10).words


@pytest.mark.parametrize(
    ("code", "bits", "effect"),
    [
        ("0f22c0", 32, Effect.WRITE_CR0),
        ("440f22c0", 64, Effect.WRITE_CR8),
        ("0f22e8", 32, Effect.OTHER),  # cr5
        ("0f30", 64, Effect.WRMSR),
        ("8ed8", 32, Effect.LOAD_DS),
        ("8ef8", 32, Effect.OTHER),  # a seventh segment register
        ("0f0115", 32, Effect.LGDT),
        ("0f01d0", 32, Effect.OTHER),  # xgetbv
        ("0f01f0", 32, Effect.LMSW),
        ("ea000000000800", 32, Effect.FAR_JUMP),
        ("ea000000000800", 64, Effect.OTHER),
        ("ff28", 64, Effect.FAR_JUMP),
        ("c5f877", 32, Effect.OTHER),  # VEX
        ("c500", 32, Effect.LOAD_DS),
        ("f3a5", 32, Effect.REP),
        ("f4", 64, Effect.HLT),
        ("48cf", 64, Effect.IRET),
        ("0f", 32, Effect.OTHER),
        ("", 32, Effect.OTHER),
    ],
)
def test_effects_by_code(code: str, bits: int, effect: Effect) -> None:
    assert effect_of(bytes.fromhex(code), bits) is effect
    assert is_system(bytes.fromhex(code), bits) == (effect in SYSTEM)
