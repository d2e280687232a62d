"""The server on standard input and output, by the official SDK; and the machine that an agent keeps open.

One call is done at a time, in the thread that signals interrupt: what a clean-up restores does not depend on who asked.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from pvhdbg.commands.declare import Answer, Command, Context, options_of, takes
from pvhdbg.commands.line import parse
from pvhdbg.commands.table import LIVE
from pvhdbg.decode.text import safe
from pvhdbg.errors import BadInput, PvhdbgError, TargetError
from pvhdbg.mcp.tools import CLOSE, LONGEST, OPEN, SNAPSHOT, AgentTool, runs, tools, words_of
from pvhdbg.model import Unavailable
from pvhdbg.repl.conversation import Conversation
from pvhdbg.repl.options import ConversationOptions
from pvhdbg.report.style import PLAIN
from pvhdbg.version import VERSION
from pvhdbg.vmm.guardian import Guardian

try:
    import anyio
    from mcp import types
    from mcp.server.lowlevel.server import Server
    from mcp.server.stdio import stdio_server
except ModuleNotFoundError as missing:  # an extra
    raise BadInput("the package mcp is not installed for this Python", "install it: pip install 'pvhdbg[mcp]'") from missing

BOUND = 1 << 16  # characters of an answer
_RUN = 10.0  # seconds that a call may let a machine run, unless it says another number
_SERIAL = 50  # lines of the guest that an answer holds
_MOST_SNAPSHOTS = 64  # that a server keeps
_INSTRUCTIONS = """pvhdbg debugs how kernels boot by the Xen PVH ABI. Begin with `elf` (a kernel file: how each VMM would boot it), `check` (boot it and judge
what it was handed) or `why` (boot it and explain its death). `open_machine` keeps a machine at its entry: then `until`, `stepi`, `break`, `regs`, `disas`,
`pagewalk`, `dmesg` work on it. `explain` has the clause of a rule."""
_READ_ONLY = " This server only reads files: it was started without --allow-run, and starts no machine."


class Reply(NamedTuple):
    """What a call returns: a document, and whether it reports an error."""

    document: dict[str, Any]
    failed: bool = False


class Desk:
    """The tools of one server, and the machine that is open."""

    def __init__(self, allow_run: bool) -> None:
        self.allow_run = allow_run
        self.tools = tools(allow_run)
        self._talk: Conversation | None = None
        self._serial: list[str] = []
        self._snapshots = 0
        self._guardian: Guardian | None = None  # of the folder with the snapshots, which ends with this process however that ends

    def call(self, name: str, given: Mapping[str, Any]) -> Reply:
        """One call. Never raises: an error is a reply with the next step."""
        try:
            tool = self.tools.get(name)
            if tool is None:
                raise BadInput(
                    f"there is no tool {name}",
                    "list the tools" if self.allow_run else "list the tools; more of them with --allow-run",
                )
            return self._done(tool, given)
        except Unavailable as gap:
            return _error(gap.reason, "", TargetError.exit_code)
        except PvhdbgError as error:
            return _error(error.what, error.todo, error.exit_code)
        except Exception as error:  # a call must not end the server
            return _error(f"internal error: {type(error).__name__}: {error}", "report it", 70)

    def close(self) -> None:
        """End the open machine, and remove the snapshots. Safe to call twice."""
        self._end_machine()
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            guardian.close()

    def _end_machine(self) -> None:
        talk, self._talk = self._talk, None
        if talk is not None:
            talk.close()

    def _done(self, tool: AgentTool, given: Mapping[str, Any]) -> Reply:
        if tool.name == OPEN:
            return self._open(given)
        if tool.name == CLOSE:
            self._end_machine()
            return Reply({"closed": True})
        if tool.name == SNAPSHOT:
            return self._save()
        alone = tool.alone is not None and (tool.live is None or any(given.get(name) for name in ("subject", "a", "file")))
        if alone and tool.alone is not None:
            if not self.allow_run and runs(tool, given):
                raise BadInput(
                    f"{tool.name} would run a machine, and this server only reads", "start it again with: pvhdbg mcp --allow-run"
                )
            command, values = parse([*tool.alone.name.split(), *words_of(tool.alone, False, given)])
            return _shown(command(values, Context()))
        if tool.live is None or not tool.reads:
            self._machine()
        if self._talk is None and tool.alone is not None:
            command, values = parse([*tool.alone.name.split(), *words_of(tool.alone, False, given)])
            return _shown(command(values, Context()))
        assert tool.live is not None
        return self._in_session(self._machine(), tool.live, given)

    def _save(self) -> Reply:
        """A snapshot of the open machine, in a private folder: an agent names no file to write."""
        talk = self._machine()
        if self._snapshots >= _MOST_SNAPSHOTS:
            raise BadInput(f"this server keeps {_MOST_SNAPSHOTS} snapshots at most", "start another one")
        if self._guardian is None:
            self._guardian = Guardian()
        path = os.path.join(self._guardian.folder, f"{self._snapshots}.pvhsnap")
        result = talk.do(next(one for one in LIVE if one.name == "snapshot save"), [path])
        if result.error:
            return _error(result.error, "", result.exit_code)
        self._snapshots += 1
        return Reply({"file": path, "text": result.text, "at": talk.where[0], "mode": talk.where[1], "exit_code": 0})

    def _machine(self) -> Conversation:
        if self._talk is None:
            raise BadInput("no machine is open", f"call {OPEN} first, or give a subject")
        return self._talk

    def _open(self, given: Mapping[str, Any]) -> Reply:
        self._end_machine()
        check = self.tools["check"].alone
        assert check is not None
        _, values = parse(["check", *words_of(check, False, given)])
        talk = Conversation("repl", options_of(ConversationOptions, values))
        talk.write = self._said
        self._serial.clear()
        try:
            talk.open()
        except BaseException:
            talk.close()
            raise
        self._talk = talk
        return Reply(
            {
                "opened": str(given.get("subject")),
                "at": talk.where[0],
                "mode": talk.where[1],
                "warnings": list(map(safe, talk.session.warnings)),
            }
        )

    def _in_session(self, talk: Conversation, command: Command, given: Mapping[str, Any]) -> Reply:
        seconds = min(float(given.get("run_seconds") or _RUN), LONGEST)
        words = words_of(command, True, {name: value for name, value in given.items() if name != "run_seconds"})
        json_too = "json" in command.formats
        stopper = threading.Timer(seconds, talk.machine.interrupted.set)
        stopper.daemon = True
        if not json_too:  # the prompt's own: they may let the machine run without an end
            stopper.start()
        try:
            result = talk.do(command, [*words, "--format=json"] if json_too else words)
        finally:
            stopper.cancel()
            talk.machine.interrupted.clear()
        if result.error:
            return _error(result.error, "", result.exit_code)
        document = _bounded(result.text, json_too)
        serial, self._serial = self._serial[-_SERIAL:], []
        state = {"exit_code": result.exit_code, "at": talk.where[0], "mode": talk.where[1]}
        return Reply({**document, **state, **({"serial": serial} if serial else {})})

    def _said(self, text: str) -> None:
        self._serial += [line.removeprefix("| ") for line in text.splitlines()]
        del self._serial[:-_SERIAL]


def _shown(answer: Answer) -> Reply:
    document = _bounded(answer.render("json", PLAIN), True)
    return Reply({**document, "exit_code": answer.exit_code})


def _bounded(text: str, is_json: bool) -> dict[str, Any]:
    if len(text) > BOUND:
        todo = "ask for less: a select, a smaller count, a range"
        return {"cut": True, "characters": len(text), "begin": text[:BOUND], "next": todo}
    return {"answer": json.loads(text)} if is_json else {"text": text}


def _error(what: str, todo: str, code: int) -> Reply:
    return Reply({"error": safe(what), "next": safe(todo) or None, "exit_code": code}, True)


class McpOptions(NamedTuple):
    """The options of `mcp`."""

    allow_run: bool = False


@takes(McpOptions)
def mcp(options: McpOptions, context: Context) -> Answer:
    """`mcp`: serve until standard input ends."""
    desk = Desk(options.allow_run)
    server = _server(desk, options.allow_run)

    async def talk() -> None:
        async with stdio_server() as (reads, writes):
            await server.run(reads, writes, server.create_initialization_options())

    try:
        anyio.run(talk)
    finally:
        desk.close()
    return Answer(lambda _: "")


def _server(desk: Desk, allow_run: bool) -> Server[Any]:
    async def list_tools(context: Any, asked: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in desk.tools.values()])

    async def call_tool(context: Any, asked: types.CallToolRequestParams) -> types.CallToolResult:
        reply = desk.call(asked.name, asked.arguments or {})
        text = json.dumps(reply.document)
        content: list[Any] = [types.TextContent(type="text", text=text)]
        return types.CallToolResult(content=content, structured_content=reply.document, is_error=reply.failed)

    said = _INSTRUCTIONS + ("" if allow_run else _READ_ONLY)
    return Server("pvhdbg", version=VERSION, instructions=said, on_list_tools=list_tools, on_call_tool=call_tool)


def _described(tool: AgentTool) -> types.Tool:
    hints = types.ToolAnnotations(read_only_hint=tool.reads, destructive_hint=False, open_world_hint=False)
    return types.Tool(name=tool.name, description=tool.description, input_schema=dict(tool.schema), annotations=hints)
