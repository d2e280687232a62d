"""`--redact cmdline`: the strings are gone wherever they were read, and what is judged stays as it was."""

import pytest

from pvhdbg.decode.boot_state import BootState, Unread, decode
from pvhdbg.decode.redact import without_command_lines
from pvhdbg.decode.snapshot_file import encode
from pvhdbg.model import Vmm
from pvhdbg.rules.catalogue import MACHINE_RULES, judge
from pvhdbg.rules.examples import MODULE, at_draft_a_entry, at_entry
from pvhdbg.spec.revisions import DRAFT_A, V1

SECRET = b"root=/dev/vda token=hunter2"


def redacted(boot: BootState) -> BootState:
    state = decode(without_command_lines(boot), boot.revision)
    assert isinstance(state, BootState)
    return state


def test_the_command_line_is_gone_and_the_verdicts_stay() -> None:
    command = ("qemu", "-append", SECRET.decode(), "-fw_cfg", f"name=x,string={SECRET.decode()}")
    boot = at_entry(
        command_line=SECRET + b"\0",
        memory={0x30000: b"copy:" + SECRET + b";", 0x21000: b"modules"},
        vmm=Vmm("QEMU", "7.2", "tcg", command),
    ).boot(V1)
    assert any(SECRET in piece.data for piece in boot.snapshot.memory.pieces)
    after = redacted(boot)
    assert not any(b"hunter2" in piece.data for piece in after.snapshot.memory.pieces)
    assert "hunter2" not in encode(after.snapshot)
    assert after.snapshot.sources["command line"] == "redacted"
    assert str(after.start_info.command_line) == "*" * len(SECRET)
    assert after.snapshot.vmm.command == ("qemu", "-append", "*" * len(SECRET), "-fw_cfg", "name=x,string=" + "*" * len(SECRET))
    assert [v.outcome for v in judge(boot, MACHINE_RULES)] == [v.outcome for v in judge(after, MACHINE_RULES)]


def test_a_modules_command_line_too() -> None:
    module = MODULE.replace(cmdline_paddr=0x22000)
    after = redacted(at_entry(modules=[module], memory={0x22000: SECRET + b"\0"}).boot(V1))
    assert not any(b"hunter2" in piece.data for piece in after.snapshot.memory.pieces)


def test_a_short_one_is_taken_out_where_it_lies_and_nowhere_else() -> None:
    after = redacted(at_entry(command_line=b"ro\0", memory={0x30000: b"ro ro"}).boot(V1))
    assert after.snapshot.memory.read(0x20000, 3) == b"**\0"
    assert after.snapshot.memory.read(0x30000, 5) == b"ro ro"


@pytest.mark.parametrize("width", [32, 64])
def test_draft_a(width: int) -> None:
    boot = at_draft_a_entry(width, command_line=SECRET).boot(DRAFT_A)
    after = redacted(boot)
    assert not any(b"hunter2" in piece.data for piece in after.snapshot.memory.pieces)


def test_what_the_vmm_appended_is_looked_for_where_no_start_info_is() -> None:
    vmm = Vmm("QEMU", "7.2", "tcg", ("qemu", "-append", SECRET.decode()))
    boot = at_entry(magic=0, memory={0x30000: b"cmdline " + SECRET}, vmm=vmm).boot(V1)
    assert isinstance(boot.start_info_part, Unread)
    assert "hunter2" not in encode(redacted(boot).snapshot)
    assert not any(b"hunter2" in piece.data for piece in redacted(boot).snapshot.memory.pieces)


def test_without_a_start_info_there_is_nothing_to_take_out() -> None:
    boot = at_entry(magic=0).boot(V1)
    assert redacted(boot).snapshot.memory == boot.snapshot.memory
