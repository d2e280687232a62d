"""`pvhdbg dmesg`: Linux' log buffer in the machine's memory."""

from __future__ import annotations

from pvhdbg.commands.declare import Answer, Context, shows, takes
from pvhdbg.commands.machine import session_of
from pvhdbg.commands.subject_options import AboutSubject
from pvhdbg.decode.text import safe
from pvhdbg.errors import TargetError
from pvhdbg.machine.log_buffer import log_messages
from pvhdbg.report.answers.memory import LogAnswer, LogMessage


@takes(AboutSubject)
def dmesg(options: AboutSubject, context: Context) -> Answer:
    """`dmesg`: the messages in the buffer, found by the kernel's symbols, else by the first message."""
    with session_of(options.about, context) as session:
        found = log_messages(session)
        if not found:
            raise TargetError(
                "no log buffer of Linux was found in the machine's memory",
                "give the kernel's file with --kernel; before its first message a kernel has none, and a snapshot does not hold it: save a core",
            )
        text = "".join(f"{safe(one.line())}\n" for one in found)
        rows = tuple(LogMessage(one.seconds, one.level, safe(one.text)) for one in found)
        return shows(lambda _: text, LogAnswer(rows))
