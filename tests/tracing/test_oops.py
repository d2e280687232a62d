"""An Oops in Linux' words becomes the exception that it is: lines of a real kernel, 6.1.192."""

import pytest

from pvhdbg.tracing import faults
from pvhdbg.tracing.oops import OopsPlace, first_oops

NULL = """[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000004
[    1.0] #PF: supervisor read access in kernel mode
[    1.0] #PF: error_code(0x0000) - not-present page
[    1.0] PGD 0 P4D 0
[    1.0] Oops: 0000 [#1] SMP
[    1.0] RIP: 0010:planted_read_state+0x7/0xb
[    1.0] Code: 48 89 f7 <8b> 40 04 c3
[    1.0] RSP: 0018:ffffc90000013eb8 EFLAGS: 00000246
[    1.0] RAX: 0000000000000000 RBX: ffffffff819a1965 RCX: 00000000ffffefff
[    1.0] RBP: 00000000ffffffff R08: 0000000000004ffb R09: 00000000ffffefff
[    1.0] CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033
[    1.0] CR2: 0000000000000004 CR3: 0000000001809000 CR4: 00000000000006b0
[    1.0] Call Trace:
[    1.0]  <TASK>
[    1.0]  do_one_initcall+0x73/0x139
[    1.0]  ? rest_init+0xa0/0xa0
[    1.0]  kernel_init+0x11/0x100
[    1.0]  </TASK>
[    1.0] RIP: 0010:another+0x1/0x2
[    1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009""".splitlines()


def test_a_null_pointer() -> None:
    oops = first_oops(NULL)
    assert oops is not None
    assert (oops.vector, oops.error, oops.place) == (faults.PF, 0, OopsPlace("planted_read_state", 7))
    assert oops.calls == (OopsPlace("do_one_initcall", 0x73), OopsPlace("kernel_init", 0x11))
    fault = oops.fault(0x1000, {"rax": 5, "efer": 0x500})
    assert (fault.cr2, fault.pc, fault.state["rax"], fault.state["r8"], fault.state["efer"]) == (4, 0x1000, 0, 0x4FFB, 0x500)
    assert fault.state["rsp"] == 0xFFFFC90000013EB8


@pytest.mark.parametrize(
    ("line", "vector"),
    [
        ("invalid opcode: 0000 [#1] SMP", faults.UD),
        ("kernel BUG at mm/slub.c:1!", faults.UD),
        ("Oops: invalid opcode: 0000 [#1] SMP", faults.UD),
        ("general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1]", faults.GP),
        ("divide error: 0000 [#1] SMP", faults.DE),
        ("BUG: TASK stack guard page was hit at 1 (stack is 2..3)", faults.PF),
    ],
)
def test_each_kind(line: str, vector: int) -> None:
    oops = first_oops([line, "RIP: 0010:f+0x1/0x2"])
    assert oops is not None
    assert (oops.vector, oops.place) == (vector, OopsPlace("f", 1))


@pytest.mark.parametrize(
    "lines", [[], ["WARNING: CPU: 0", "RIP: 0010:f+0x1/0x2"], ["divide error: 0000"], ["divide error"] + ["x"] * 100 + NULL[5:6]]
)
def test_what_is_no_oops_or_does_not_tell_its_place(lines: list[str]) -> None:
    assert first_oops(lines) is None
