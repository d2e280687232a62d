"""The prompt at a terminal: editing, history, completion, the toolbar, Ctrl-C and Ctrl-D. `Conversation` runs the lines.

Ctrl-C interrupts a running guest, and at the prompt it clears the line; pressed twice it aborts the current command. While the
prompt waits, the machine's end is reported above it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.styles import Style

from pvhdbg import leaving
from pvhdbg.targets.target import Leave

if TYPE_CHECKING:
    from pvhdbg.repl.conversation import Conversation

PROMPT = "(pvh) "
_LOOK = 0.3  # seconds between two checks of the machine while the prompt waits
_ANSWERS = {"d": Leave.RUNNING, "s": Leave.STOPPED, "k": Leave.KILLED}


def history_path() -> Path:
    """$XDG_STATE_HOME/pvhdbg/history (XDG base directory specification)."""
    base = os.environ.get("XDG_STATE_HOME") or ""
    state = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return state / "pvhdbg" / "history"


def _history() -> History:
    path = history_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(path, "ab"):
            os.chmod(path, 0o600)
    except OSError:
        return InMemoryHistory()  # the prompt works without a writable home folder
    return FileHistory(str(path))


class _Words(Completer):
    def __init__(self, talk: Conversation) -> None:
        self._talk = talk

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        last = "" if not text or text[-1].isspace() else text.split()[-1]
        try:
            words = self._talk.complete(text)
        except Exception:  # a completion never raises
            return
        end = " " if len(words) == 1 and not words[0].endswith("/") else ""  # the only one is meant: go on behind it
        for word in words:
            yield Completion(word + end, start_position=-len(last))


class Terminal:
    """A conversation at the terminal that standard input and output are."""

    def __init__(self, talk: Conversation, **prompt: Any) -> None:
        """`prompt` are arguments for prompt_toolkit's PromptSession: a test's pipe."""
        self._talk = talk
        self._prompt: PromptSession[str] = PromptSession(
            history=_history(),
            auto_suggest=AutoSuggestFromHistory(),
            completer=_Words(talk),
            complete_while_typing=False,
            bottom_toolbar=lambda: f" {talk.toolbar()}",
            style=Style.from_dict({"bottom-toolbar": "noreverse bg:#303030 #d0d0d0"}) if talk.style.colour else None,
            refresh_interval=_LOOK,
            enable_history_search=False,
            **prompt,
        )
        talk.confirm = self._confirmed
        talk.machine.attended = True

    def run(self) -> int:
        """Run the prompt until the user leaves; returns 0."""
        talk = self._talk
        while not talk.leaving:
            try:
                with patch_stdout(raw=True):
                    line = self._prompt.prompt(PROMPT, pre_run=self._watch)
            except KeyboardInterrupt:
                continue
            except EOFError:
                self._leave()
                continue
            with self._interruptible():
                result = talk.run(line)
            talk.tell(result, paging=True)
            if result.error:
                talk.write(f"{talk.style('bad', 'error:')} {result.error}\n")
        return 0

    def _watch(self) -> None:
        from prompt_toolkit.application import get_app

        async def look() -> None:
            while True:
                await asyncio.sleep(_LOOK)
                news = self._talk.news()
                if news is not None:
                    sys.stdout.write(f"{news}\n")  # patched: it appears above the prompt
                    get_app().invalidate()

        get_app().create_background_task(look())

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        machine = self._talk.machine

        def interrupt(_number: int, _frame: object) -> None:
            if machine.interrupted.is_set():
                leaving.interrupt()  # the second time: interrupt code that ignores the first
            machine.interrupted.set()  # the wait for the guest checks it: no reply of the stub is interrupted

        machine.interrupted.clear()
        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # --- questions ------------------------------------------------------------------------------------------------

    def _ask(self, question: str) -> str:
        session: PromptSession[str] = PromptSession(input=self._prompt.input, output=self._prompt.output)
        try:
            return session.prompt(question).strip().lower()
        except (KeyboardInterrupt, EOFError):
            return ""

    def _confirmed(self, question: str) -> bool:
        return self._ask(f"{question} (y or n) ") in ("y", "yes")

    def _leave(self) -> None:
        """Ctrl-D: ask how to leave a machine that is still there."""
        talk = self._talk
        if talk.machine.recorded or talk.machine.gone is not None:
            talk.run("quit")
            return
        usual = "k" if talk.machine.qemu is not None else "s"
        answer = (
            self._ask(f"the machine: (d)etach and let it run, leave it (s)topped, (k)ill it, or (c)ancel? [{usual}] ")[:1] or usual
        )
        if answer not in _ANSWERS:
            return
        left = talk.machine.close(_ANSWERS[answer])
        talk.leaving = True
        if left:
            talk.write(f"{left}\n")
