"""`check --expect` and `expect --from` on the real command line: what is wrong is told before anything is booted."""

import json

import pytest

from pvhdbg.commands.toml_file import FILE_BOUND
from pvhdbg.decode import snapshot_file
from pvhdbg.guests import path as guest
from pvhdbg.rules.examples import at_entry
from pvhdbg.spec.revisions import V1
from tests.support.cli_runner import HELLO, TRIPLE_FAULT, Cli, Ran, kernel_elf

EXPECTED = """
[machine]
memory = "96M"
append = "console=ttyS0 mark=7"

[[expect]]
field = "start_info.command_line"
matches = "mark=[0-9]$"

[[expect]]
field = "memory_map.ram"
">=" = "94M"
"<" = "96M"

[[expect]]
field = "registers.cr4"
"==" = 0
"""


@pytest.fixture
def files(cli: Cli) -> Cli:
    """A folder with a snapshot in it."""
    cli.file("a.pvhsnap", snapshot_file.encode(at_entry(cr4=0x20).boot(V1).snapshot))
    return cli


@pytest.mark.boot
def test_a_boot_as_expected_and_one_that_is_not(cli: Cli) -> None:
    cli.file("boot.toml", EXPECTED)
    ran = cli("check", HELLO, "--expect", "boot.toml").ok()
    assert "Expectations     3 PASS" in ran.out
    ran = cli("check", HELLO, "--expect", "boot.toml", "--memory", "64M", "--format", "json").ok(1)
    document = ran.json()
    failed = [one for one in document["verdicts"] if one["outcome"] == "fail"]
    assert [(one["rule"], one["violations"][0]["at"]) for one in failed] == [("expect[1]", "memory_map.ram")]
    assert document["conclusion"] == "1 expectation NOT met"
    assert document["start_info"]["command_line"] == "console=ttyS0 mark=7"


@pytest.mark.boot
def test_the_first_file_passes_on_its_snapshot_and_on_a_new_boot(cli: Cli) -> None:
    cli("snapshot", "save", HELLO, "--append", "one two", "--memory", "80M", "-o", "a.pvhsnap").ok()
    assert "check with" in cli("expect", "--from", "a.pvhsnap", "-o", "boot.toml").ok().out
    cli("check", "a.pvhsnap", "--expect", "boot.toml").ok()
    cli("check", HELLO, "--expect", "boot.toml").ok()
    ran = cli("check", HELLO, "--expect", "boot.toml", "--append", "three").ok(1)
    assert "start_info.command_line: expected == 'one two', found 'three'" in ran.out


@pytest.mark.boot
def test_an_initrd_lies_beside_the_file(cli: Cli) -> None:
    (cli.folder / "below").mkdir()
    (cli.folder / "below" / "initrd").write_bytes(b"070701" + bytes(1000))
    (cli.folder / "below" / "boot.toml").write_text(
        'machine.initrd = "initrd"\n[[expect]]\nfield = "modules[0].kind"\n"==" = "cpio"\n'
    )
    cli("check", HELLO, "--expect", "below/boot.toml").ok()


def test_a_snapshot_is_judged_by_it_too(files: Cli) -> None:
    files.file("boot.toml", EXPECTED)
    document = files("check", "a.pvhsnap", "--expect", "boot.toml", "--format", "json").ok(1).json()
    assert {one["rule"]: one["outcome"] for one in document["verdicts"] if one["rule"].startswith("expect")} == {
        "expect[0]": "fail", "expect[1]": "fail", "expect[2]": "fail"
    }  # fmt: skip
    assert document["conclusion"] == "the hand-off VIOLATES the PVH boot ABI; 3 expectations NOT met"


@pytest.mark.parametrize("format", ["text", "json", "sarif", "junit", "tap", "ktap", "github", "markdown", "html"])
def test_every_format_shows_them(files: Cli, format: str) -> None:
    files.file("boot.toml", EXPECTED)
    out = files("check", "a.pvhsnap", "--expect", "boot.toml", "--format", format).ok(1).out
    shown = out.replace("\\", "")  # Markdown's escapes
    assert "expect[2]" in shown
    assert "registers.cr4" in shown
    assert "0x20" in shown
    assert "expectations NOT met" in shown or format == "junit"


def test_what_is_allowed_is_not_a_failure(files: Cli) -> None:
    files("check", "a.pvhsnap").ok(1)
    files("expect", "--from", "a.pvhsnap", "-o", "boot.toml").ok()
    text = (files.folder / "boot.toml").read_text()
    assert "[[allow]]" in text
    ran = files("check", "a.pvhsnap", "--expect", "boot.toml", "--format", "json").ok()
    excused = [one for one in ran.json()["verdicts"] if (one["reason"] or "").startswith("allowed by boot.toml")]
    assert [one["outcome"] for one in excused] == ["remark"] * text.count("[[allow]]")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[expect]]\nfield =\n", ("boot.toml", "line 2", "column 8")),
        ("x", ("boot.toml", "is not TOML")),
        ("[[expect]]\nfield = 'a20'\nmatches = 'x'\n", ("boot.toml: expect[0].matches",)),
        ("[[expect]]\nfield = 'a21'\nexists = true\n", ("boot.toml: expect[0].field", "a20")),
        ("[[milestone]]\nsymbol = 'start_kernel'\n", ("boot.toml: milestone[0].symbol", "no such key")),
        ("a = " + "[" * 100_000, ("is not TOML",)),
        ("a = " + "9" * 10_000, ("is not TOML",)),
        ("#" * (FILE_BOUND + 1), ("larger than",)),
        ("\x00", ("line 1",)),
    ],
)
def test_a_bad_file_is_one_complaint_and_nothing_is_booted(files: Cli, text: str, words: tuple[str, ...]) -> None:
    files.file("boot.toml", text)
    ran = files("check", HELLO, "--expect", "boot.toml", "--qemu", "/nonexistent")
    ran.complaint(2, *words)


def test_a_file_that_is_not_utf_8(files: Cli) -> None:
    files.file("boot.toml", b"a = 1\nb = '\xff'\n")
    files("check", "a.pvhsnap", "--expect", "boot.toml").complaint(2, "line 2, column 6")


@pytest.mark.parametrize("path", ["none.toml", ".", "a\udcffb"])
def test_a_file_that_cannot_be_read(files: Cli, path: str) -> None:
    files("check", "a.pvhsnap", "--expect", path).complaint(2, "cannot be read", "pvhdbg expect --from")


def test_expect_takes_recordings_only(files: Cli) -> None:
    files("expect", "--from", HELLO).complaint(2, "is not a snapshot", "pvhdbg snapshot save")
    files("expect", "--from", "none").complaint(2, "is not a snapshot")
    files("expect", "--from", "a.pvhsnap", "-o", "none/x").complaint(2, "cannot be written")
    files("expect").complaint(2, "--from")


def test_expect_writes_to_standard_output(files: Cli) -> None:
    out = files("expect", "--from", "a.pvhsnap").ok().out
    assert out.startswith("# Expectations from a.pvhsnap")
    assert out.count("\n[[expect]]") > 8


def test_not_of_a_pvh_entry(files: Cli) -> None:
    boot = at_entry(magic=0, eax=0x2BADB002).boot(V1)
    files.file("b.pvhsnap", snapshot_file.encode(boot.snapshot))
    assert json.loads((files.folder / "b.pvhsnap").read_text())["schema"] == "pvhdbg/snapshot/1"
    if boot.other_protocol is None:
        files("expect", "--from", "b.pvhsnap").ok()
    else:
        files("expect", "--from", "b.pvhsnap").complaint(2, "does not record a PVH hand-off")


def test_from_python(files: Cli) -> None:
    import pvhdbg

    path = files.file("boot.toml", '[[expect]]\nfield = "registers.cr4"\n"==" = 0\n')
    report = pvhdbg.check(str(files.folder / "a.pvhsnap"), expect=path)
    assert report.exit_code == 1
    assert report.verdicts[-1].rule.id == "expect[0]"


TO_LONG_MODE = 10284  # see tests/tracing/test_log_engine.py


# --- milestones ---------------------------------------------------------------------------------------------------


def milestones(*wanted: str) -> str:
    return "".join(f"[[milestone]]\n{one}\ntimeout = 10\n" for one in wanted)


def outcomes(ran: Ran) -> dict[str, str]:
    return {one["rule"]: one["outcome"] for one in ran.json()["verdicts"] if one["rule"].startswith("milestone")}


@pytest.mark.boot
def test_milestones_are_reached_one_after_the_other(cli: Cli) -> None:
    cli.file("boot.toml", milestones("reaches = 'compatibility'", "reaches = 'long'", "serial = 'memmap_entries 0x'"))
    ran = cli("check", str(guest("long_mode")), "--expect", "boot.toml", "--format", "json", "--report", "junit=out.xml").ok()
    assert outcomes(ran) == {"milestone[0]": "pass", "milestone[1]": "pass", "milestone[2]": "pass"}
    assert "milestone[2]" in (cli.folder / "out.xml").read_text()


@pytest.mark.boot
def test_a_guest_that_dies_misses_the_milestone_and_leaves_the_next_open(cli: Cli) -> None:
    cli.file("boot.toml", milestones("reaches = 'pvh_start'", "reaches = '0x100800'", "reaches = 'long'"))
    kernel = cli.file("dies.elf", kernel_elf(TRIPLE_FAULT + bytes(64)))
    cli("check", kernel, "--expect", "boot.toml").complaint(2, "no symbol table")
    cli.file("boot.toml", milestones("reaches = '0x100007'", "reaches = '0x100040'", "reaches = 'long'"))
    ran = cli("check", kernel, "--expect", "boot.toml", "--format", "json").ok(1)
    assert outcomes(ran) == {"milestone[0]": "pass", "milestone[1]": "fail", "milestone[2]": "unknown"}
    found = next(one for one in ran.json()["verdicts"] if one["rule"] == "milestone[1]")["violations"][0]["found"]
    assert "triple" in found.lower()
    cli("check", kernel, "--expect", "boot.toml", "--until", "long").complaint(2, "--until and [[milestone]]")
    cli("check", kernel, "--expect", "boot.toml", "--bisect").ok(1)


@pytest.mark.boot
def test_a_guest_that_does_not_write_is_told_when_the_time_is_up(cli: Cli) -> None:
    cli.file("boot.toml", "[[milestone]]\nserial = 'never written'\ntimeout = 0.3\n")
    loop = b"\x40\xeb\xfd"  # inc eax; jmp: it never comes back to the same state
    ran = cli("check", cli.file("loops.elf", kernel_elf(loop)), "--expect", "boot.toml", "--format", "json").ok(1)
    assert outcomes(ran) == {"milestone[0]": "fail"}
    assert "not within 0.3 s" in ran.out


@pytest.mark.boot
def test_a_budget_of_instructions_is_held_to_the_instruction(cli: Cli) -> None:
    kernel = guest("long_mode")
    cli.file("boot.toml", milestones(
        "reaches = 'protected'\nmax_instructions = 1", "reaches = 'load_gdt'\nmax_instructions = 10282",
        f"reaches = 'long'\nmax_instructions = {TO_LONG_MODE}",
    ))  # fmt: skip
    assert set(outcomes(cli("check", kernel, "--expect", "boot.toml", "--format", "json").ok()).values()) == {"pass"}
    cli.file("boot.toml", milestones(f"reaches = 'long'\nmax_instructions = {TO_LONG_MODE - 1}"))
    ran = cli("check", kernel, "--expect", "boot.toml", "--format", "json").ok(1)
    (found,) = next(one for one in ran.json()["verdicts"] if one["rule"] == "milestone[0]")["violations"]
    assert (found["expected"], found["found"]) == (f"at most {TO_LONG_MODE - 1:,}", f"{TO_LONG_MODE:,}")


@pytest.mark.boot
def test_a_budget_that_is_far_exceeded_and_one_that_is_large(cli: Cli) -> None:
    # dec ecx; jnz; nop; jmp . with ecx = 50 000
    kernel = cli.file("counts.elf", kernel_elf(b"\xb9\x50\xc3\0\0\x49\x75\xfd\x90\xeb\xfe"))
    cli.file("boot.toml", milestones("reaches = '0x100008'\nmax_instructions = 20"))
    ran = cli("check", kernel, "--expect", "boot.toml", "--format", "json").ok(1)
    (found,) = next(one for one in ran.json()["verdicts"] if one["rule"] == "milestone[0]")["violations"]
    assert found["found"] == "100,001"  # the recorder counts to the end
    cli.file("boot.toml", milestones("reaches = '0x100008'\nmax_instructions = 100001"))
    assert outcomes(cli("check", kernel, "--expect", "boot.toml", "--format", "json").ok()) == {"milestone[0]": "pass"}


def test_milestones_of_a_recording_are_open(files: Cli) -> None:
    files.file("boot.toml", milestones("reaches = 'long'"))
    ran = files("check", "a.pvhsnap", "--expect", "boot.toml", "--format", "json")
    assert outcomes(ran) == {"milestone[0]": "unknown"}
    assert "a recording ends at the entry" in ran.out


@pytest.mark.boot
def test_an_expression_that_takes_years_has_an_end(cli: Cli) -> None:
    cli.file("boot.toml", '[[expect]]\nfield = "start_info.command_line"\nmatches = "(a+)+$"\n')
    ran = cli("check", HELLO, "--append", "a" * 64 + "!", "--expect", "boot.toml")
    assert ran.code == 2
    assert "takes too long" in ran.err
