"""The table of allowed imports (docs/architecture.md) as a test, and the pure modules inside GDB's own Python."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.cli_runner import ROOT

PACKAGE = ROOT / "pvhdbg"

FACES = {"cli", "repl", "in_gdb", "commands"}  # only these print


def _dotted(room: str) -> str:
    return room.rstrip("/").replace("/", ".")


def _written_rooms() -> dict[str, set[str]]:
    """The rooms of docs/architecture.md's table, low ones first, with the rooms that it says each may import.

    A name is a module or a folder in pvhdbg/. "everything pure" are the rooms above `guests`, the first one that does I/O.
    """
    found: dict[str, set[str]] = {}
    pure: set[str] = set()
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        if match := re.fullmatch(r"\| `([\w./]+)` \| .* \| (.*) \|", line):
            room, said = _dotted(match[1]), {_dotted(name) for name in re.findall(r"`([\w./]+)`", match[2])}
            pure = pure or (set(found) if room == "guests" else set())
            assert "everything pure" not in match[2] or pure
            found[room] = said | pure if "everything pure" in match[2] else said
    return found


WRITTEN = _written_rooms()
PURE = set([*WRITTEN][: [*WRITTEN].index("guests")])
ALLOWED = {**WRITTEN, "__init__": set(WRITTEN), "__main__": {"cli"}}
# Third-party packages, and the only rooms that may import each.
FOREIGN = {
    "pygdbmi": {"targets"},
    "iced_x86": {"disassembly"},
    "prompt_toolkit": {"repl"},
    "elftools": {"kernel"},
    "typing_extensions": {"api", "booted", "layout"},  # for type checkers alone
    "pytest": {"pytest_plugin"},
    "lz4": {"kernel"},
    "zstandard": {"kernel"},
    "tomllib": {"commands"},  # the standard library's from Python 3.11 on
    "tomli": {"commands"},
    "gdb": {"targets", "in_gdb"},
    "drgn": {"drgn"},
    "mcp": {"mcp"},
    "anyio": {"mcp"},
    "distributed": {"sweep"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


# A folder inside a room that is a room of its own, because it does what the rest of the room must not.
INNER = {("tracing", "engines"): "tracing.engines", ("tracing", "recorder"): "tracing.recorder"}


def room(path: Path) -> str:
    return room_of(path.relative_to(PACKAGE).parts)


def room_of(parts: tuple[str, ...]) -> str:
    return INNER.get((parts[0], parts[1] if len(parts) > 1 else "")) or parts[0].removesuffix(".py")


@cache
def parsed(path: Path) -> list[ast.AST]:
    """Every node of a module."""
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> list[tuple[str, int]]:
    found = []
    for node in parsed(path):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "pvhdbg" else [str(node.module)]
            found += [(name, node.lineno) for name in names]
    return found


def test_rooms_import_only_what_the_table_allows() -> None:
    assert {room(path) for path in modules()} == ALLOWED.keys()
    assert [line for path in modules() for line in _forbidden(path)] == []


def _forbidden(path: Path) -> Iterator[str]:
    """What a file imports against the table."""
    here = room(path)
    for name, line in imports(path):
        top, *rest = name.split(".")
        if top == "pvhdbg":
            other = room_of(tuple(rest)) if rest else "__init__"
            allowed = other == here or other in ALLOWED[here]
        else:
            allowed = top in sys.stdlib_module_names or here in FOREIGN.get(top, set())
        if not allowed:
            yield f"{path}:{line} imports {name}"


def _imported_modules(path: Path, known: set[str]) -> set[str]:
    """The modules of pvhdbg that a file imports anywhere in it: at once, deferred, or for its types alone."""
    found = set()
    for node in parsed(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "pvhdbg":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & known) or {str(node.module)}
    return found


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules on a way from one of them back to itself; empty where there is none."""
    done: set[str] = set()
    for start in graph:
        way, open_ends = [start], [iter(sorted(graph[start]))]
        while way and start not in done:
            following = next(open_ends[-1], None)
            if following is None:
                done.add(way.pop())
                open_ends.pop()
            elif following in way:
                return [*way[way.index(following) :], following]
            elif following not in done:
                way.append(following)
                open_ends.append(iter(sorted(graph[following])))
    return []


def test_a_cycle_is_found() -> None:
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Also not by an import that is deferred, or for types alone: two files that need each other are one, or three."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in modules()}
    package = {"pvhdbg"}  # its __init__ names what is exported, and imports it when it is asked for
    graph = {name: _imported_modules(path, set(files)) - package for name, path in files.items() if name not in package}
    assert " -> ".join(_cycle(graph)) == ""


def test_a_name_of_a_type_means_one_thing() -> None:
    """No two files declare a public class, or another name for a type, under the same name."""
    places: dict[str, set[str]] = {}
    for path in modules():
        (module, *_) = parsed(path)
        assert isinstance(module, ast.Module)
        for node in module.body:
            declared = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                declared = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in declared:
                if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
                    places.setdefault(name, set()).add(str(path.relative_to(PACKAGE)))
    assert {name: sorted(found) for name, found in places.items() if len(found) > 1} == {}


MOST_DEFERRED = 147


def test_few_imports_are_deferred() -> None:
    """An import inside a function is for what only one answer of many needs, or what takes long."""
    deferred = 0
    for path in modules():
        within: set[int] = set()  # the lines of functions
        for node in parsed(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                within.update(range(node.lineno, int(node.end_lineno or 0) + 1))
        ours = {node.lineno for node in parsed(path) if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pvhdbg")}
        deferred += len(ours & within)
    assert deferred <= MOST_DEFERRED


def test_no_room_imports_a_higher_one() -> None:
    for number, (name, allowed) in enumerate(WRITTEN.items()):
        assert allowed <= set([*WRITTEN][:number]), name


def test_pure_rooms_do_no_input_or_output() -> None:
    forbidden = {"os", "socket", "subprocess", "pathlib", "io", "time", "random", "threading", "tempfile", "sys", "logging"}
    for path in modules():
        if room(path) in PURE:
            for name, line in imports(path):
                assert name.split(".")[0] not in forbidden, f"{path}:{line} imports {name}"
            for node in parsed(path):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in {"open", "print", "input"}, f"{path}:{node.lineno} does I/O"


def test_only_faces_print() -> None:
    for path in modules():
        if room(path) not in FACES:
            for node in parsed(path):
                assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"), path


@pytest.mark.gdb
def test_pure_modules_import_inside_gdbs_python() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules() if room(path) in PURE
    ]
    script = "\n".join(
        [
            "import sys",
            "sys.path = [p for p in sys.path if 'site-packages' not in p and 'dist-packages' not in p]",
            f"sys.path.insert(0, {str(ROOT)!r})",
            *(f"import {name}" for name in names),
            "from pvhdbg.rules.catalogue import MACHINE_RULES, judge",
            "from pvhdbg.spec.revisions import V1",
            "verdicts = judge(MACHINE_RULES[0].passes[0].boot(V1))",
            "print('judged', {rule.id for rule in MACHINE_RULES} == {one.rule.id for one in verdicts})",
        ]
    )
    result = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", f"python exec({script!r})"], capture_output=True, text=True, timeout=60, check=False
    )
    assert "judged True" in result.stdout, result.stderr
