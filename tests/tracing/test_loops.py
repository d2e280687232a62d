"""Whether a loop is endless, by the instructions of one or two of its rounds."""

from pvhdbg.tracing.engines.loops import Stepped, period

STACK = 0x9000
FUNCTION, CALLED = 0x1000, 0x2000
# The last `ret` before FUNCTION was reached by a push of its address, as a retpoline does it; FUNCTION begins with a call.
RET, CALL, NOP = b"\xc3", b"\xe8\xfb\x0f\x00\x00", b"\x90"


def step(pc: int, code: bytes, rsp: int, then: int, rsp_then: int) -> Stepped:
    return Stepped(pc, code, 32, {"rip": pc, "rsp": rsp}, {"rip": then, "rsp": rsp_then})


def into_the_function(back_to: int) -> list[Stepped]:
    """The way from a `ret` at CALLED + 1, to `back_to`, and from FUNCTION to the same `ret` with the same registers."""
    return [
        step(CALLED + 1, RET, STACK, back_to, STACK + 4),
        step(FUNCTION, CALL, STACK + 4, CALLED, STACK),
        step(CALLED, NOP, STACK, CALLED + 1, STACK),
    ]


def test_equal_registers_by_other_memory_are_not_an_endless_loop() -> None:
    """The stack held FUNCTION at the first `ret`, and holds the address behind the call at the second."""
    once = into_the_function(FUNCTION)
    loop = period(once, once[-1].after)
    assert loop is not None
    assert (loop.same, loop.twice) == (True, False)
    assert not loop.endless(lambda _: True)


def test_two_equal_rounds_are() -> None:
    """A call whose `ret` goes to a jump back to the call: what it reads, it wrote."""
    jump = b"\xeb\xf9"
    rounds = [
        step(CALLED, RET, STACK, FUNCTION + 5, STACK + 4),
        step(FUNCTION + 5, jump, STACK + 4, FUNCTION, STACK + 4),
        step(FUNCTION, CALL, STACK + 4, CALLED, STACK),
    ] * 2
    loop = period(rounds, rounds[-1].after)
    assert loop is not None
    assert (loop.same, loop.twice, len(loop.steps)) == (True, True, 3)
    assert loop.endless(lambda _: True)
    once = period(rounds[:3], rounds[2].after)
    assert once is not None
    assert not once.endless(lambda _: True)


def goes_through(addresses: list[int]) -> list[Stepped]:
    """Rounds of `mov (%esi), %al; inc %esi; jmp`, with ESI at each address."""
    steps = []
    for at in addresses:
        now, then = ({"rip": FUNCTION, "rsp": STACK, "rsi": at + more} for more in (0, 1))
        steps += [
            Stepped(FUNCTION, b"\x8a\x06", 32, now, {**now, "rip": FUNCTION + 2}),
            Stepped(FUNCTION + 2, b"\x46", 32, {**now, "rip": FUNCTION + 2}, {**then, "rip": FUNCTION + 3}),
            Stepped(FUNCTION + 3, b"\xeb\xfb", 32, {**then, "rip": FUNCTION + 3}, then),
        ]
    return steps


def test_a_loop_that_goes_through_a_string_waits_for_none_of_its_bytes() -> None:
    steps = goes_through([0x7000, 0x7001, 0x7002])
    loop = period(steps, steps[-1].after)
    assert loop is not None
    assert (loop.same, len(loop.steps)) == (False, 3)
    assert loop.awaited(lambda _address, _size: 0) == ()


def test_a_loop_that_counts_and_reads_one_byte_waits_for_it() -> None:
    steps = goes_through([0x7000, 0x7000, 0x7000])
    for number, one in enumerate(steps):
        steps[number] = Stepped(one.pc, one.code, 32, {**one.before, "rcx": number}, {**one.after, "rcx": number + 1})
    loop = period(steps, steps[-1].after)
    assert loop is not None
    assert [(one.address, one.size) for one in loop.awaited(lambda _address, _size: 0)] == [(0x7000, 1)]
