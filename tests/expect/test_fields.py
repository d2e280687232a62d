"""Fields by name: the same values under the same names as in the JSON report, and never anything but a reason where there is none."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode.boot_state import BootState
from pvhdbg.expect.fields import Absent, NoSuchField, ValueKind, every_path, resolve
from pvhdbg.model import Unavailable, Vmm
from pvhdbg.report.json_report import machine
from pvhdbg.rules.examples import at_draft_a_entry, at_entry
from pvhdbg.spec.revisions import DRAFT_A, V1

BOOT = at_entry(vmm=Vmm("QEMU", "7.2.22", "tcg"), rdx=0x1234).boot(V1)
BARE = at_entry(segments=False, backing=None, kernel=None, a20=None, magic=0, unobserved=("cr0", "efer")).boot(V1)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a JSON document by its path."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(one, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from leaves(one, f"{path}[{index}]")
    else:
        yield path, value


def test_names_and_values_are_those_of_the_json_report() -> None:
    compared = set()
    for path, shown in leaves(machine(BOOT)):
        try:
            field = resolve(path)
        except NoSuchField:
            continue
        if shown is None:
            with pytest.raises((Unavailable, Absent)):
                field.read(BOOT)
            continue
        if field.kind in (ValueKind.NUMBER, ValueKind.SIZE) and isinstance(shown, str):
            shown = int(shown, 16)
        assert field.read(BOOT) == shown, path
        compared.add(re.sub(r"\[\d+\]", "[]", path))
    assert len(compared) > 120, sorted(compared)


def test_what_the_report_has_and_expectations_have_not() -> None:
    missing = set()
    for path, _ in leaves(machine(BOOT)):
        try:
            resolve(path)
        except NoSuchField:
            missing.add(re.sub(r"\[\d+\]", "[]", path))
    notes = {path for path in missing if path.endswith(("_missing", ".missing"))}
    assert missing - notes == {
        "captured",
        "start_info.rsdp.root_tables[].expected",
        *(f"kernel.compared.{name}" for name in ("another_kernel", "bytes", "of", "of_zeros", "zeros")),
        "kernel.loads[].size",
        "kernel.loads[].start",
        "kernel.source",
        "protocol.name",
        "protocol.revision",
        "start_info.rsdp.length",
        "start_info.rsdp.root_tables[].address",
        "start_info.rsdp.root_tables[].problem",
        "start_info.rsdp.root_tables[].signature",
        "start_info.rsdp.root_tables[].sound",
        "start_info.rsdp.root_tables[].tables[]",
        "vmm.firmware_evidence",
    }


@pytest.mark.parametrize(
    "boot",
    [
        BOOT,
        BARE,
        at_draft_a_entry().boot(DRAFT_A),
        at_entry(version=0).boot(V1),
        at_entry(rsdp_paddr=0, modules=[], memmap_entries=0, cmdline_paddr=0).boot(V1),
    ],
)
def test_every_field_is_a_value_of_its_kind_or_a_reason(boot: BootState) -> None:
    types = {ValueKind.NUMBER: int, ValueKind.SIZE: int, ValueKind.TEXT: str, ValueKind.FLAG: bool}
    paths = every_path()
    assert len(paths) > 150
    for path in paths:
        field = resolve(path)
        try:
            value = field.read(boot)
        except (Unavailable, Absent) as reason:
            assert str(reason), path  # noqa: PT017 - every field is tried
        else:
            assert type(value) is types[field.kind], path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("registers.cr0.PE", 1),
        ("registers.cr0.PG", 0),
        ("registers.edx", 0x1234),
        ("memory_map.ram", 0x9FC00 + 0x1FF00000),
        ("memory_map.reserved", 0x10000),
        ("memory_map.count", 3),
        ("modules.count", 1),
        ("command_line", "console=ttyS0"),
        ("start_info.modules[0].size", 0x20000),
    ],
)
def test_what_is_asked_for_most(path: str, value: object) -> None:
    assert resolve(path).read(BOOT) == value


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("registers.cr44", "cr4"),
        ("start_info.comand_line", "did you mean command_line"),
        ("modules", "single value"),
        ("modules[0]", "single value"),
        ("a20[0]", "not a list"),
        ("a20.x", "true or false"),
        ("modules[99999].kind", "beyond the entries"),
        ("modules[-1].kind", "write it like"),
        ("", "write it like"),
        ("registers..cr0", "write it like"),
        ("__class__", "there is no"),
        ("registers.__class__", "there is no"),
        ("x" * 100000, "there is no"),
    ],
)
def test_a_name_that_is_none(path: str, words: str) -> None:
    with pytest.raises(NoSuchField, match=words) as error:
        resolve(path)
    assert len(str(error.value)) < 400


@given(st.text(max_size=30) | st.from_regex(r"[a-z_]{1,12}(\.[a-z_0]{1,12}|\[[0-9]{1,3}\]){0,4}", fullmatch=True))
def test_any_name_is_a_field_or_none(path: str) -> None:
    try:
        field = resolve(path)
    except NoSuchField:
        return
    assert field.path == path


def test_the_page_names_only_fields_that_there_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "expectations.md").read_text()
    table = page.split("## Fields")[1].split("## Conditions")[0]
    names = re.findall(r"`([a-z_0-9\[\]]+(?:\.[A-Za-z_0-9\[\]]+)+)`", table)
    assert len(names) > 12
    for name in names:
        resolve(name)
    for group in {re.split(r"[.\[]", path)[0] for path in every_path()}:
        assert f"`{group}" in table, group
