"""`pvhdbg mcp` by the official SDK's own client: on files, and on a machine that is booted, stopped and examined."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from mcp import ClientSession, StdioServerParameters, stdio_client

from pvhdbg.errors import BadInput
from pvhdbg.guests import path as guest
from pvhdbg.mcp import server
from pvhdbg.mcp.tools import tools, words_of
from tests.support.cli_runner import HELLO, ROOT, Cli

LONG_MODE = str(guest("long_mode"))
Ask = Callable[..., Awaitable[dict[str, Any]]]


def talk(cli: Cli, work: Callable[[ClientSession, Ask], Awaitable[None]], *words: str) -> None:
    """Start the server, initialize, and let `work` ask it. Everything has to end within a minute."""

    async def all_of_it() -> None:
        parameters = StdioServerParameters(
            command=sys.executable, args=["-m", "pvhdbg", "mcp", *words], env=cli.env, cwd=cli.folder
        )
        with anyio.fail_after(90), open(os.devnull, "w") as nowhere:
            async with stdio_client(parameters, nowhere) as (reads, writes), ClientSession(reads, writes) as session:
                await session.initialize()

                async def ask(name: str, **given: Any) -> dict[str, Any]:
                    result: Any = await session.call_tool(name, given)
                    document: dict[str, Any] = result.structured_content
                    assert result.is_error is ("error" in document)
                    return document

                await work(session, ask)

    anyio.run(all_of_it)


def test_files_only(cli: Cli) -> None:
    async def work(session: ClientSession, ask: Ask) -> None:
        listed = await session.list_tools()
        names = {tool.name for tool in listed.tools}
        assert {"elf", "check", "why", "explain", "trace_query"} <= names
        assert not {"open_machine", "until", "probe", "gdb", "boot"} & names
        found = await ask("elf", file=HELLO, **{"as": ["qemu"]})
        assert found["answer"]["schema"] == "pvhdbg/elf/1"
        assert (await ask("explain", id="PVH-TR-LIMIT"))["answer"]["severity"] == "MUST"
        refused = await ask("check", subject=HELLO)
        assert "only reads" in refused["error"]
        assert "--allow-run" in refused["next"]
        assert (
            "does not exist" in (await ask("elf", file="/nonexistent"))["error"] or (await ask("elf", file="/nonexistent"))["next"]
        )

    talk(cli, work)


@pytest.mark.boot
def test_a_real_boot(cli: Cli) -> None:
    async def work(session: ClientSession, ask: Ask) -> None:
        assert (await ask("check", subject=HELLO, append="one two"))["answer"]["start_info"]["command_line"] == "one two"
        assert "no machine is open" in (await ask("regs"))["error"]
        opened = await ask("open_machine", subject=LONG_MODE)
        assert opened["at"] == "0x100000 <pvh_start>"
        assert (await ask("mode"))["answer"]["code"] == 32
        stopped = await ask("until", where=["in_long_mode"])
        assert "in_long_mode" in stopped["at"]
        assert (await ask("mode"))["answer"]["code"] == 64
        code = await ask("disas", address=["$rip"], format="/2")
        assert [one["current"] for one in code["answer"]["instructions"]] == [True, False]
        assert (await ask("pagewalk", address=["$rip"]))["answer"]["scheme"] == "4-level paging"
        before = (await ask("regs"))["answer"]["registers"]["rip"]
        await ask("stepi", steps=2)
        assert (await ask("regs"))["answer"]["registers"]["rip"] != before
        saved = await ask("snapshot")
        assert (await ask("mode", subject=saved["file"]))["answer"]["code"] == 64
        assert os.stat(os.path.dirname(saved["file"])).st_mode & 0o777 == 0o700
        assert (await ask("break", where=["in_long_mode"]))["exit_code"] == 0
        assert (await ask("trace_query", subject=saved["file"], what="cr0"))["exit_code"] == 2
        await ask("continue", run_seconds=0.5)
        assert (await ask("close_machine"))["closed"] is True

    talk(cli, work, "--allow-run")


def test_without_the_sdk(cli: Cli) -> None:
    (cli.folder / "mcp.py").write_text("raise ModuleNotFoundError(\"No module named 'mcp'\", name='mcp')\n")
    cli("mcp", env={"PYTHONPATH": f"{cli.folder}:{ROOT}"}).complaint(2, "not installed", "pvhdbg[mcp]")


@pytest.mark.parametrize(
    "given", [{"subject": "--qemu=/bin/sh"}, {"qemu": "/bin/sh"}, {"output": "x"}, {"subject": "-", "nonsense": 1}]
)
def test_a_call_names_no_program_and_no_file_to_write(given: dict[str, str]) -> None:
    check = tools(True)["check"].alone
    assert check is not None
    with pytest.raises(BadInput):
        words_of(check, False, given)


def test_no_tool_takes_programs_or_shells() -> None:
    found = tools(True)
    asked_for = {
        "open_machine",
        "check",
        "why",
        "elf",
        "regs",
        "info",
        "xp",
        "x",
        "disas",
        "until",
        "break",
        "stepi",
        "trace_query",
        "dmesg",
    }
    assert asked_for | {"snapshot", "close_machine"} <= found.keys()
    assert not {"shell", "gdb", "monitor", "source", "repl", "run", "attach"} & found.keys()
    for tool in found.values():
        assert not {"qemu", "via", "extra", "output", "report"} & tool.schema["properties"].keys()


def test_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BOUND", 1000)
    desk = server.Desk(False)
    reply = desk.call("rules", {})
    assert reply.document["cut"] is True
    assert len(reply.document["begin"]) == 1000 < reply.document["characters"]
    assert desk.call("nonsense", {}).failed
