"""--report: several formats of one boot, each whole or absent, and what cannot be written is told before the boot."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pvhdbg.commands.formats import FILE_JUDGED, JUDGED
from pvhdbg.commands.line import parse
from pvhdbg.commands.table import COMMANDS
from pvhdbg.errors import BadInput
from tests.support.cli_runner import HELLO, ROOT, Cli, Machine, kernel_elf, scratch
from tests.support.schemas import validator

NO_QEMU = ("--qemu", "/nonexistent/qemu")  # what is told before a boot is told before this is looked for


class Words(HTMLParser):
    """The text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def boot() -> Iterator[tuple[Cli, str]]:
    """One boot with every format, and what it printed; the guest's command line means something in each."""
    with scratch() as folder:
        cli = Cli(folder)
        words = [word for name in JUDGED for word in ("--report", f"{name}={folder}/boot.{name}")]
        ran = cli("check", HELLO, "--append", "</script><b>::error::x ]]> `", *words).ok()
        assert ran.err == ""
        yield cli, ran.out


def file(boot: tuple[Cli, str], format: str) -> str:
    return (boot[0].folder / f"boot.{format}").read_text()


@pytest.mark.boot
def test_one_boot_gives_every_format(boot: tuple[Cli, str]) -> None:
    assert file(boot, "text") == boot[1]
    document = json.loads(file(boot, "json"))
    assert document["start_info"]["command_line"] == "</script><b>::error::x ]]> `"
    rules = {verdict["rule"] for verdict in document["verdicts"]}
    assert {rule["id"] for rule in json.loads(file(boot, "sarif"))["runs"][0]["tool"]["driver"]["rules"]} == rules
    suite = ElementTree.fromstring(file(boot, "junit"))[0]
    assert {case.get("name", "").split(":")[0] for case in suite.iter("testcase")} == rules
    assert "</script><b>" in (suite.findtext("system-out") or "")
    assert file(boot, "tap").startswith(f"TAP version 13\n1..{len(rules)}\n")
    assert file(boot, "ktap").startswith("KTAP version 1\n1..")
    assert all(line.startswith(("::notice title=", "::warning title=")) for line in file(boot, "github").splitlines())
    for name in ("markdown", "summary"):
        assert file(boot, name).startswith("# ✅ The hand-off conforms")
    page = Words()
    page.feed(file(boot, "html"))
    assert any("</script><b>::error::x" in piece for piece in page.words)


@pytest.mark.boot
def test_format_prints_any_of_them(cli: Cli) -> None:
    snapshot = cli.folder / "boot.pvhsnap"
    cli("snapshot", "save", HELLO, "-o", snapshot).ok()
    for name in ("html", "tap"):
        cli("check", snapshot, "--output", cli.folder / "answer", "--report", f"{name}={cli.folder / 'report'}").ok()
        printed = cli("check", snapshot, "--format", name).ok().out
        assert printed == (cli.folder / "report").read_text() != (cli.folder / "answer").read_text()


def test_the_commands_that_judge_all_take_them(cli: Cli, machine: Callable[..., Machine]) -> None:
    one, two = cli.folder / "one.xml", cli.folder / "two.html"
    cli("run", HELLO, "--report", f"junit={one}").ok()
    cli("attach", machine().socket, "--kernel", HELLO, "--report", f"html={two}").ok()
    assert ElementTree.parse(one).getroot().tag == "testsuites"
    assert "conforms" in two.read_text()
    assert {command.name for command in COMMANDS if command.formats == JUDGED} >= {"run", "attach", "check"}


@pytest.mark.parametrize("strict", [False, True])
def test_a_kernel_files_findings_take_the_formats_that_list(cli: Cli, strict: bool) -> None:
    """The note's padding is wrong here, and no machine is started."""
    kernel = cli.file("odd <b>", kernel_elf(note=b"\4\0\0\0\4\0\0\0\x12\0\0\0Xen\0"))
    words = [word for name in FILE_JUDGED for word in ("--report", f"{name}=kernel.{name}")]
    ran = cli("elf", kernel, *words, *(["--strict"] if strict else []))
    assert ran.code in (0, 1), ran.err
    files = {name: (cli.folder / f"kernel.{name}").read_text() for name in FILE_JUDGED}
    rules = {verdict["rule"] for verdict in json.loads(files["json"])["verdicts"]}
    (suite,) = ElementTree.fromstring(files["junit"])
    assert {case.get("name", "").split(":")[0] for case in suite.iter("testcase")} == rules
    assert suite.get("name") == "PVH kernel file odd <b>"
    assert (int(suite.get("failures", "")) > 0) == (ran.code == 1)
    assert ("not ok" in files["ktap"]) == (ran.code == 1) == ("::error " in files["github"])
    assert files["tap"].splitlines()[1] == f"1..{len(rules)}"
    with pytest.raises(BadInput):
        parse(["elf", "vmlinux", "--report", "html=x"])


@pytest.mark.boot
def test_the_summary_is_added_to_its_file_and_the_others_replace_theirs(cli: Cli) -> None:
    summary, page = cli.file("summary.md", "what another command wrote\n"), cli.file("page.html", "old")
    cli("check", HELLO, "--report", f"summary={summary}", "--report", f"html={page}").ok()
    assert Path(summary).read_text().startswith("what another command wrote\n# ✅ The hand-off conforms")
    assert Path(page).read_text().startswith("<!DOCTYPE html>")


@pytest.mark.boot
def test_standard_output_takes_one_after_the_answer(cli: Cli) -> None:
    out = cli("check", HELLO, "--report", "github=-").ok().out
    assert out.startswith("VMM ")
    assert out.rstrip("\n").splitlines()[-1].startswith("::notice title=PVH boot ABI::the hand-off conforms")


@pytest.mark.boot
def test_a_violation_is_in_the_file_and_in_the_exit_code(cli: Cli) -> None:
    ran = cli("check", HELLO, "--strict", "--report", "junit=out.xml")
    assert ran.code == 1
    (suite,) = ElementTree.parse(cli.folder / "out.xml").getroot()
    assert [case.get("name", "").split(":")[0] for case in suite.iter("testcase") if case.find("failure") is not None] == [
        "PVH-TR-LIMIT"
    ]


@pytest.mark.boot
@pytest.mark.parametrize("end", ["never entered", "QEMU ends", "refused"])
def test_a_boot_that_cannot_be_judged_is_told_in_every_format(cli: Cli, end: str) -> None:
    """The file is judged all the same; nothing of the machine is called good."""
    kernel = cli.file("loop", kernel_elf(note=b"") if end == "refused" else kernel_elf())
    words, code = {
        "never entered": (["--entry", "0x100001", "--timeout", "0.5"], 3),
        "QEMU ends": (["--", "-device", "nonexistent"], 3),
        "refused": ([], 1),
    }[end]
    for name in JUDGED:
        cli.file(f"new.{name}", "" if name == "summary" else "of an earlier run")
    ran = cli("check", kernel, *(word for name in JUDGED for word in ("--report", f"{name}=new.{name}")), *words)
    what = ran.complaint(code).splitlines()[-2].removeprefix("pvhdbg: ")
    new = {name: (cli.folder / f"new.{name}").read_text() for name in JUDGED}
    assert not [name for name, text in new.items() if "of an earlier run" in text]
    (suite,) = ElementTree.fromstring(new["junit"])
    assert (suite.get("errors"), suite.get("failures"), suite.get("name")) == ("01"[code == 3], "01"[code == 1], "PVH loop")
    assert what in (suite.findtext("testcase/error"), suite.findtext("testcase/failure"))
    assert new["summary"].startswith(f"# ❌ {what[:1].upper()}")
    assert f"not ok 1 - {what}" in new["tap"]
    assert f"not ok 1 {what}" in new["ktap"]
    assert new["github"] == f"::error title=PVH boot ABI::{what}\n"
    document = json.loads(new["json"])
    validator("report").validate(document)
    assert document["failure"]["what"] == what
    assert (document["exit_code"], document["conclusion"]) == (code, f"not observed: {what}")
    machine = [one for one in document["verdicts"] if not one["rule"].startswith("ELF-")]
    assert {one["outcome"] for one in machine} == {"unknown"}
    note = next(one for one in document["verdicts"] if one["rule"] == "ELF-NOTE-18")
    assert note["outcome"] == ("fail" if end == "refused" else "pass")
    (run,) = json.loads(new["sarif"])["runs"]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"] == what
    assert {one["ruleId"] for one in run["results"] if one["kind"] == "fail"} == ({"ELF-NOTE-18"} if end == "refused" else set())
    page = Words()
    page.feed(new["html"])
    assert f"Not observed: {what}" in "".join(page.words)
    assert f"not observed: {what}: " in new["text"]
    assert new["markdown"].startswith("# ❌ Not observed")


@pytest.mark.boot
def test_an_answer_of_an_earlier_run_does_not_stay(cli: Cli) -> None:
    old = cli.file("old.json", "{}")
    cli("elf", "/nonexistent", "--format", "json", "--output", old).complaint(2)
    assert not Path(old).exists()
    Path(old).write_text("{}")
    cli("regs", HELLO, "--format", "json", "--output", old, "--", "-device", "nonexistent").complaint(3)
    assert not Path(old).exists()


@pytest.mark.boot
def test_what_failed_comes_first(cli: Cli) -> None:
    """Strict: known deviations of TR and of the memory map are behind a hand-off that is wrong at its end."""
    initrd = cli.file("initrd", "x")
    ran = cli("check", HELLO, "--report", "html=page.html", "--strict", "--append", "é" * 100, "--initrd", initrd)
    rules = re.findall(r"^(FAIL|KNOWN|REMARK) +([A-Z0-9-]+)", ran.out, re.MULTILINE)
    assert [word for word, _ in rules] == sorted((word for word, _ in rules), key=["FAIL", "KNOWN", "REMARK"].index)
    page = Words()
    page.feed((cli.folder / "page.html").read_text())
    ids = [word for word in page.words if re.fullmatch("(PVH|SI|ELF)-[A-Z0-9-]+", word)]
    failed = [id for word, id in rules if word == "FAIL"]
    assert failed
    assert ids[:1] == failed[:1]


def test_a_kernel_without_an_entry_is_a_failure(cli: Cli) -> None:
    ran = cli("check", cli.file("none", kernel_elf(note=b"")), "--format", "junit")
    assert ran.code == 1
    assert ran.err.startswith("pvhdbg: ")
    (suite,) = ElementTree.fromstring(ran.out)
    assert (suite.get("errors"), suite.get("failures")) == ("0", "1")


@pytest.mark.parametrize("path", ["missing/folder/out.xml", "tmp", "file/out.xml", "tmp/"])
def test_a_path_that_cannot_be_written_is_told_before_the_boot(cli: Cli, path: str) -> None:
    cli.file("file")
    ran = cli("check", HELLO, *NO_QEMU, "--report", "html=fine.html", "--report", f"junit={path}")
    ran.complaint(2, path)
    assert not (cli.folder / "fine.html").exists()
    assert "QEMU" not in ran.err.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--report", "junit"], "names no file"),
        (["--report", "junit="], "names no file"),
        (["--report", "pdf=x"], "'pdf'"),
        (["--report", "=x"], "''"),
        (["--report", "html=x", "--report", "json=./x"], "twice"),
        (["--report", "html=x", "--output", "x"], "twice"),
    ],
)
def test_words_that_do_not_fit(words: list[str], complaint: str) -> None:
    with pytest.raises(BadInput) as error:
        parse(["check", "vmlinux", *words])
    assert complaint in error.value.what
    assert error.value.todo


def test_a_command_without_verdicts_has_its_own_formats() -> None:
    _, values = parse(["regs", "vmlinux", "--report", "json=x", "--report", "text=y"])
    assert values["report"] == [("json", "x"), ("text", "y")]
    with pytest.raises(BadInput):
        parse(["regs", "vmlinux", "--report", "junit=x"])


def test_the_commands_in_the_documentation_can_be_given() -> None:
    page = (Path(ROOT) / "docs" / "ci.md").read_text()
    commands = re.findall(r"(?:^|/)pvhdbg ((?:check|diff|snapshot) .*(?:\n +--.*)*)", page, re.MULTILINE)
    commands += [" ".join(found.split()) for found in re.findall(r"^ +pvhdbg (check (?:.*\n)+?) +- ", page, re.MULTILINE)]
    assert len(commands) >= 4
    for command in commands:
        parse(shlex.split(command))
