"""Framing: any chunking gives the same packets, and no bytes raise anything but ProtocolError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.errors import ProtocolError
from pvhdbg.rsp import replies
from pvhdbg.rsp.packets import PACKET_BOUND, Acknowledgement, Packet, PacketReader, frame
from pvhdbg.rsp.registers import CORE_32, CORE_64, QEMU_32, QEMU_64, layout_for


def read(*chunks: bytes) -> list[Packet | Acknowledgement]:
    reader = PacketReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def test_a_packet_is_framed_as_the_manual_says() -> None:
    assert frame(b"OK") == b"$OK#9a"
    assert frame(b"a#b") == b"$a}\x03b#" + b"%02x" % (sum(b"a}\x03b") & 0xFF)


@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(st.integers(1, 20), max_size=30))
def test_any_chunking_gives_the_same_packets(packets: list[bytes], cuts: list[int]) -> None:
    stream = b"+".join(frame(packet) for packet in packets)
    chunks, at = [], 0
    for cut in cuts:
        chunks.append(stream[at : at + cut])
        at += cut
    chunks.append(stream[at:])
    assert [event.data for event in read(*chunks) if isinstance(event, Packet)] == packets


@given(
    st.one_of(st.binary(max_size=40).map(frame), st.binary(max_size=40)),
    st.sampled_from([b"", b"+", b"-", b"++"]),
    st.binary(max_size=2),
)
def test_what_is_one_packet_and_nothing_else_is_read_as_any_other(packet: bytes, before: bytes, behind: bytes) -> None:
    reader = PacketReader()
    assert [event.data for event in reader.feed(frame(b"x" * 20)) if isinstance(event, Packet)] == [b"x" * 20]
    data = before + packet + behind
    only = reader.only(data)
    if only is not None:
        assert [event for event in reader.feed(data) if isinstance(event, Packet)] == [Packet(only)]
    else:
        assert not (before in (b"", b"+") and not behind and packet == frame(packet[1:-3]))


def test_the_middle_of_a_packet_is_not_taken_for_a_whole_one() -> None:
    reader = PacketReader()
    whole = frame(b"a" * 20)
    assert list(reader.feed(whole + b"$b")) == [Packet(b"a" * 20)]
    assert reader.only(whole) is None


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_arbitrary_bytes_raise_nothing_but_protocol_errors(chunks: list[bytes]) -> None:
    try:
        read(*chunks)
    except ProtocolError as error:
        assert error.todo  # noqa: PT017 - any other exception fails the test


def test_run_lengths_are_expanded() -> None:
    assert read(b"$0* #" + b"%02x" % (sum(b"0* ") & 0xFF)) == [Packet(b"0000")]


def test_a_run_length_bomb_is_refused() -> None:
    body = b"0" + b"*~" * 60000
    with pytest.raises(ProtocolError, match="expands"):
        read(b"$" + body + b"#%02x" % (sum(body) & 0xFF))


def test_a_wrong_checksum_is_told() -> None:
    assert read(b"$OK#00") == [Packet(b"OK", sound=False)]


def test_notifications_are_passed_over() -> None:
    assert read(b"%Stop:T05#00", b"+", frame(b"OK")) == [Acknowledgement(True), Packet(b"OK")]


def test_a_packet_without_end_is_refused() -> None:
    with pytest.raises(ProtocolError, match="more than"):
        read(b"$" + b"a" * (PACKET_BOUND + 2))


@pytest.mark.parametrize(
    ("greeting", "name"), [(b"HTTP/1.1 400 Bad Request\r\n", "HTTP"), (b"SSH-2.0-OpenSSH\r\n", "SSH"), (b'{"QMP": {', "QMP")]
)
def test_other_servers_are_named(greeting: bytes, name: str) -> None:
    with pytest.raises(ProtocolError, match=name):
        read(greeting)


# --- replies ------------------------------------------------------------------------------------------------------


def test_stop_replies() -> None:
    stop = replies.stop_reply(b"T05thread:p01.02;watch:000021e0;")
    assert (stop.kind, stop.number, stop.thread, stop.watch) == ("T", 5, "p01.02", 0x21E0)
    assert replies.stop_reply(b"W00").words == "the VMM exited with status 0"
    assert replies.stop_reply(b"T03thread:01;").words == "shut down"
    with pytest.raises(ProtocolError):
        replies.stop_reply(b"OK")


@given(st.binary(max_size=60))
def test_no_reply_raises_anything_else(data: bytes) -> None:
    for read_reply in (replies.stop_reply, replies.unhex, replies.features, replies.error_code, replies.is_stop):
        try:
            read_reply(data)
        except ProtocolError as error:
            assert error.todo  # noqa: PT017


# --- registers ----------------------------------------------------------------------------------------------------


def test_the_layouts_have_qemus_offsets() -> None:
    assert QEMU_64.slot("eflags").offset == 17 * 8  # type: ignore[union-attr]
    assert QEMU_64.slot("cr0").number == 27  # type: ignore[union-attr]
    assert QEMU_64.slot("efer").number == 32  # type: ignore[union-attr]
    assert [slot.name for slot in QEMU_32.slots[:9]] == ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip"]
    assert QEMU_32.slot("cr0").offset == 9 * 4 + 7 * 4 + 3 * 4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("length", "layout"), [(608, QEMU_64), (344, QEMU_32), (536, CORE_64), (164, CORE_64), (64, CORE_32), (312, CORE_32)]
)
def test_the_length_tells_the_layout(length: int, layout: object) -> None:
    assert layout_for(length) is layout


def test_unavailable_registers_are_left_out() -> None:
    data = b"xx" * 8 + b"01" + b"00" * 7 + b"00" * (608 - 16)
    values = QEMU_64.decode(data)
    assert "rax" not in values
    assert values["rbx"] == 1


@given(st.binary(max_size=1300))
def test_any_g_packet_is_survived(data: bytes) -> None:
    for layout in (QEMU_64, QEMU_32, CORE_64, CORE_32):
        try:
            layout.decode(data)
        except ProtocolError as error:
            assert error.todo  # noqa: PT017
