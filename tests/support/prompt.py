"""The prompt without a terminal, for tests that type lines."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pvhdbg.commands.declare import options_of
from pvhdbg.guests import path as guest
from pvhdbg.repl.conversation import Conversation, Result
from pvhdbg.repl.options import ConversationOptions
from tests.support.cli_runner import eventually

LONG_MODE = str(guest("long_mode"))


class Talk:
    """A conversation, and all other text that it wrote."""

    def __init__(self, subject: str, command: str = "repl", **values: object) -> None:
        self.written: list[str] = []
        self.it = Conversation(command, options_of(ConversationOptions, {"subject": subject, "timeout": 20.0, **values}))
        self.it.write = self.written.append

    def __call__(self, line: str) -> str:
        result = self.run(line)
        assert not result.error, result.error
        return result.text

    def run(self, line: str) -> Result:
        return self.it.run(line)

    def wrong(self, line: str) -> str:
        """The one line of an error, after which the session is what it was."""
        result = self.run(line)
        assert result.error, result.text
        assert "\n" not in result.error
        assert "internal error" not in result.error
        return result.error

    def interrupted(self, line: str) -> str:
        """What a line says whose run is interrupted, once there is one."""
        machine = self.it.machine

        def interrupt() -> None:
            eventually(lambda: machine.running, "it does not run")
            machine.interrupted.set()

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            return self(line)
        finally:
            thread.join()


@contextmanager
def talking(subject: str, command: str = "repl", **values: object) -> Iterator[Talk]:
    one = Talk(subject, command, **values)
    one.it.open()
    try:
        yield one
    finally:
        one.it.close()
