"""`gdb -i=dap` with our script and symbols, as an editor talks to it: breakpoints before paging and after, source lines, `pvh`."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_runner import ROOT, Cli, Machine
from tests.support.dap_client import DapClient
from tests.support.linked_kernels import paging_kernel
from tests.support.programs import need

PAGE = (ROOT / "docs" / "editors.md").read_text(encoding="utf-8")
SOURCE = ROOT / "tests" / "support" / "paging.S"
ADAPTER = ["gdb", "vmlinux", "--", "-i=dap"]
FIRST_WITH_DAP = 14


@pytest.fixture
def needs_dap() -> None:
    """GDB 13, Debian 12's, has no adapter: `make test-gdbs` runs these tests with newer ones."""
    need("gdb")
    shown = subprocess.run(["gdb", "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    version = re.search(r" (\d+)\.\d+", shown.splitlines()[0])
    assert version is not None
    if int(version[1]) < FIRST_WITH_DAP:
        pytest.skip(f"GDB {version[1]} has no debug adapter: make test-gdbs")


def line(text: str) -> int:
    """The number of the line of the guest's source that has this text."""
    return next(number for number, one in enumerate(SOURCE.read_text().splitlines(), 1) if text in one)


class Editor:
    """What an editor does, by the adapter's client."""

    def __init__(self, adapter: DapClient) -> None:
        self.adapter = adapter

    def open(self, target: str, lines: list[int], functions: list[str]) -> None:
        self.adapter.ask("initialize", adapterID="gdb", linesStartAt1=True)
        attach = self.adapter.send("attach", target=target)
        self.adapter.wait(type="event", event="initialized")
        set_ = self.adapter.ask("setBreakpoints", source={"path": str(SOURCE)}, breakpoints=[{"line": one} for one in lines])
        assert [one["verified"] for one in set_["breakpoints"]] == [True] * len(lines)
        self.adapter.ask("setFunctionBreakpoints", breakpoints=[{"name": one} for one in functions])
        self.adapter.ask("configurationDone")
        self.adapter.answer(attach)
        assert self.stopped() == "attach"

    def stopped(self) -> str:
        reason: str = self.adapter.wait(type="event", event="stopped")["body"]["reason"]
        return reason

    def go(self) -> None:
        self.adapter.ask("continue", threadId=1)
        assert self.stopped() == "breakpoint"

    def frame(self) -> dict[str, Any]:
        found: dict[str, Any] = self.adapter.ask("stackTrace", threadId=1)["stackFrames"][0]
        return found

    def say(self, command: str) -> str:
        """A line of the debug console."""
        printed: str = self.adapter.ask("evaluate", expression=command, context="repl")["result"]
        return printed


@pytest.fixture
def editor(cli: Cli) -> Iterator[Callable[[str], Editor]]:
    started: list[DapClient] = []

    def start(kernel: str) -> Editor:
        words = [kernel if word == "vmlinux" else word for word in ADAPTER]
        client = DapClient([sys.executable, "-m", "pvhdbg", *words[:-1], "-nx", words[-1]], {**cli.env, "PYTHONWARNINGS": ""})
        started.append(client)
        return Editor(client)

    yield start
    for one in started:
        one.__exit__(None, None, None)


@pytest.mark.gdb
@pytest.mark.usefixtures("needs_dap")
@pytest.mark.parametrize("levels", [2, 4])
def test_source_lines_before_paging_and_after(
    machine: Callable[..., Machine], editor: Callable[[str], Editor], tmp_path: Path, levels: int
) -> None:
    kernel = paging_kernel(tmp_path, levels, "-g")
    one, talk = machine(kernel=kernel), editor(kernel)
    before, after = line("movl    %eax, %cr3"), line("there:") + 1
    talk.open(one.socket, [before, after], ["entry"])

    talk.go()
    frame = talk.frame()
    assert (frame["name"], frame["source"]["path"]) == ("entry", str(SOURCE))
    assert "the hand-off conforms" in talk.say("pvh check --select PVH-CR0")
    assert "paging off" in talk.say("pvh mode")

    talk.go()
    frame = talk.frame()
    assert frame["line"] == before
    code = talk.adapter.ask("disassemble", memoryReference=frame["instructionPointerReference"], instructionCount=1)
    assert "cr3" in code["instructions"][0]["instruction"]

    talk.go()
    frame = talk.frame()
    assert (frame["name"], frame["line"]) == ("there", after)
    assert "paging off" not in talk.say("pvh mode")
    talk.adapter.ask("next", threadId=1)
    assert talk.stopped() == "step"
    talk.adapter.ask("disconnect")


@pytest.mark.gdb
@pytest.mark.usefixtures("needs_dap")
def test_the_console_runs_the_machine_and_the_editor_follows(
    machine: Callable[..., Machine], editor: Callable[[str], Editor], tmp_path: Path
) -> None:
    kernel = paging_kernel(tmp_path, 4, "-g")
    one, talk = machine(kernel=kernel), editor(kernel)
    talk.open(one.socket, [], [])
    assert "at the entry 0x100000" in talk.say("pvh run-to-entry")
    assert talk.frame()["name"] == "entry"
    talk.adapter.ask("disconnect")


@pytest.mark.boot
@pytest.mark.gdb
@pytest.mark.real
@pytest.mark.usefixtures("needs_dap")
def test_source_lines_of_linux(vmlinux_debug: Path, machine: Callable[..., Machine], editor: Callable[[str], Editor]) -> None:
    """The distribution's own kernel: its entry in assembly before paging, start_kernel in C after."""
    one, talk = machine(kernel=str(vmlinux_debug)), editor(str(vmlinux_debug))
    talk.open(one.socket, [], ["pvh_start_xen", "start_kernel"])
    talk.go()
    assert talk.frame()["source"]["path"].endswith("arch/x86/platform/pvh/head.S")
    talk.go()
    frame = talk.frame()
    assert (frame["name"], frame["source"]["path"].endswith("init/main.c")) == ("start_kernel", True)
    talk.adapter.ask("disconnect")


def test_the_recipes_start_this_adapter_and_attach() -> None:
    blocks = dict(re.findall(r"^```(json|js|lua|elisp)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    (launch,) = json.loads(blocks["json"])["configurations"]
    (declared,) = json.loads(re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0])["contributes"]["debuggers"]
    assert launch["type"] == declared["type"]
    assert set(declared["configurationAttributes"]["attach"]["required"]) <= launch.keys()
    assert (launch["request"], launch["target"], launch["kernel"]) == ("attach", ":1234", "vmlinux")
    words = {name: re.findall(r'"([^"]*)"', text) for name, text in blocks.items()}
    assert '["gdb", session.configuration.kernel, "--", "-i=dap"]' in blocks["js"]
    for name in ("lua", "elisp"):
        at = words[name].index("pvhdbg", 1) if name == "lua" else words[name].index("pvhdbg")
        assert words[name][at + 1 : at + 5] == ADAPTER
        assert {"attach", ":1234"} <= set(words[name])
