"""JSON from every command that shows something: one document, which meets the schema that `pvhdbg schema` prints."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvhdbg.commands.schema import FOLDER
from pvhdbg.commands.table import COMMANDS
from pvhdbg.guests import path as guest
from tests.support.cli_runner import HELLO, ROOT, Cli, scratch
from tests.support.schemas import answered, valid, validator

LONG_MODE = str(guest("long_mode"))

# They write a file, or hand over to another program, and show nothing.
SHOW_NOTHING = {
    "release",
    "repl",
    "trace export",
    "boot timeline",
    "snapshot save",
    "snapshot export",
    "sweep export",
    "expect",
    "gdb",
    "gdb-path",
    "completion",
    "drgn",
    "mcp",
    "extract",
}


def test_every_command_that_shows_something_has_json() -> None:
    assert {command.name for command in COMMANDS if "json" not in command.formats} == SHOW_NOTHING


def test_the_generated_schemas_are_those_of_the_declarations() -> None:
    spec = importlib.util.spec_from_file_location("write_schemas", ROOT / "scripts" / "write_schemas.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    stale = [name for name, text in script.schemas().items() if Path(FOLDER, name).read_text() != text]
    assert stale == [], "write them again: scripts/write_schemas.py"


def test_schema_lists_all_and_refuses_others(cli: Cli) -> None:
    names = cli("schema").ok().out.split()
    assert valid(cli("schema", "--format", "json").ok().out)["schemas"] == names
    for name in names:
        validator(name.split("/")[1])
    assert cli("schema", "report").ok().json()["$id"] == "pvhdbg/report/1"
    cli("schema", "../../version").complaint(2, "is not a schema", "pvhdbg schema")


@pytest.fixture(scope="module")
def saved(qemu: str) -> Iterator[Cli]:
    """A snapshot of `hello` with a module, and a trace of `long_mode`."""
    with scratch() as folder:
        cli = Cli(folder)
        initrd = cli.file("initrd", b"070701" + bytes(5000))
        cli("snapshot", "save", HELLO, "--append", "one two=3", "--initrd", initrd, "-o", "hello.pvhsnap").ok()
        traced = cli("trace", LONG_MODE, "--what", "state", "--until", "long", "-o", "long.jsonl", "--format", "json").ok()
        (folder / "traced.json").write_text(traced.out)
        yield cli


def test_a_trace_that_is_saved_also_has_a_document(saved: Cli) -> None:
    document = valid((saved.folder / "traced.json").read_text())
    assert document["reached"] is True
    assert "end" in document["records"][-1]


PARTS: dict[str, tuple[str, ...]] = {
    "segments": (), "mode": (), "gdt": (), "idt": (), "tss": (), "modules": (), "memmap": (), "cmdline": (), "rsdp": (), "entry": (),
    "symbols": ("pvh*",), "notes": (), "disas": ("/3", "$pc"), "xp": ("/4w", "0x100000"), "pagewalk": ("$pc",),
}  # fmt: skip
NAMED = ("symbols", "notes", "disas")  # for which a kernel is booted: a snapshot does not hold its names


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_machine(saved: Cli, name: str) -> None:
    document = answered(name, HELLO if name in NAMED else saved.folder / "hello.pvhsnap", *PARTS[name])
    found = {
        "mode": ("name", "32-bit protected mode"),
        "cmdline": ("command_line", "one two=3"),
        "modules": ("nr_modules", 1),
        "entry": ("address", "0x100000"),
        "xp": ("unit", 4),
        "pagewalk": ("physical", "0x100000"),
        "tss": ("width", None),
    }.get(name)
    if found is not None:
        assert document[found[0]] == found[1]
    if name == "symbols":
        assert document["symbols"][0] == {"name": "pvh_start", "now": "0x100000", "physical": "0x100000", "linked": "0x100000"}
    elif name == "disas":
        assert document["instructions"][0]["symbol"] == "pvh_start"
    elif name == "notes":
        assert [one["value"] for one in document["notes"] if one["name"] == "PHYS32_ENTRY"] == ["0x100000"]


def test_page_tables_and_what_was_traced(saved: Cli) -> None:
    assert answered("pagewalk", saved.folder / "hello.pvhsnap", "--all")["ranges"] == []
    (change,) = answered("trace", "query", saved.folder / "long.jsonl", "cr0")["changes"]
    assert change["new"] == "0x80000011"
    event = change["event"]["seq"]
    around = answered("trace", "query", saved.folder / "long.jsonl", str(event))["events"]
    assert event in [one["seq"] for one in around]
    assert answered("trace", "diff", saved.folder / "long.jsonl", saved.folder / "long.jsonl")["same"] is True
    modes = answered("timeline", saved.folder / "long.jsonl")["modes"]
    assert [one["mode"] for one in modes] == ["protected", "compatibility", "long"]
    shown = answered("trace", saved.folder / "long.jsonl")
    assert next(one["milestone"] for one in shown["records"] if "milestone" in one) == "entry"
    assert answered("rules")["rules"]


def test_functions_and_where_two_traces_of_them_part(saved: Cli) -> None:
    for name, words in (("a.jsonl", ()), ("b.jsonl", ("--until", "enable_pae"))):
        saved("trace", LONG_MODE, "--what", "calls", *words, "-o", name).ok()
    document = answered("trace", "diff", saved.folder / "a.jsonl", saved.folder / "b.jsonl")
    assert document["why"] == "another function"
    assert document["b"] is None
    assert document["only_b"] == []
    shown = answered("trace", saved.folder / "a.jsonl")
    assert [one["function"] for one in shown["records"] if "function" in one][:2] == ["pvh_start", "map_4g"]


def test_recorded_boots(saved: Cli) -> None:
    words = ("--deterministic", "--for", "5", "--until", "in_long_mode", "--format", "json")
    assert valid(saved("boot", LONG_MODE, *words, "-o", saved.folder / "a.pvhboot").ok().out)["instructions"] > 0
    assert answered("boot", "show", saved.folder / "a.pvhboot")["functions"][0]["name"] == "pvh_start"
    assert answered("boot", "profile", saved.folder / "a.pvhboot")["functions"][0]["instructions"] > 0
    saved("boot", LONG_MODE, *words, "--flow", "-o", saved.folder / "flow.pvhboot").ok()
    assert len(answered("boot", "blocks", saved.folder / "flow.pvhboot", "--most", "7")["blocks"]) == 7
    assert answered("boot", "coverage", saved.folder / "a.pvhboot")["functions"] > 5
    assert answered("boot", "show", saved.folder / "a.pvhboot", "--tree")["chapters"][0]["name"] == "firmware"
    assert answered("boot", "diff", saved.folder / "a.pvhboot", saved.folder / "a.pvhboot")["same"] is True
