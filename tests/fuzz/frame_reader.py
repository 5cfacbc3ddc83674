"""WebSocket frames as RFC 6455 has them, read strictly and without the library the proxy uses."""

from dataclasses import dataclass, field

from frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, masked

Item = tuple[int, bytes]
"""A whole message, or a control frame: its opcode and what it holds."""

_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


@dataclass(slots=True)
class Frames:
    """What a stream of frames says, up to a Close, to a `fault`, or to its end."""

    most: int
    """Bytes that a message may have."""
    items: list[Item] = field(default_factory=list)
    fault: str = ""
    rest: bytes = b""
    """What stands behind that, be it a part of a frame."""
    _kind: int = 0
    _message: bytes = b""

    @property
    def closed(self) -> bool:
        return any(kind == CLOSE for kind, _ in self.items[-1:])

    def add(self, first: int, data: bytes) -> None:
        opcode, last = first & 0x0F, bool(first & 0x80)
        if opcode >= CLOSE:
            self._end(opcode, data)
            return
        self._kind = opcode or self._kind
        self._message += data
        if last:
            self._end(self._kind, self._message)
            self._kind, self._message = 0, b""

    def _end(self, kind: int, data: bytes) -> None:
        text = data[2:] if kind == CLOSE else data if kind == TEXT else b""
        try:
            text.decode()
        except UnicodeDecodeError:
            self.fault = "not UTF-8"
        if kind == CLOSE and data and int.from_bytes(data[:2], "big") not in _CODES:
            self.fault = "no such close code"
        if not self.fault:
            self.items.append((kind, data))

    def fault_of(self, first: int, length: int) -> str:
        """Return what is wrong with a frame, before its data has come."""
        opcode, last = first & 0x0F, bool(first & 0x80)
        if first & 0x70:
            return "a reserved bit"
        if opcode == CLOSE and self._kind:
            return "a Close in the middle of a message"
        if opcode in (CLOSE, PING, PONG):
            return "" if last and length < 126 else "a control frame in fragments, or too long"
        if opcode not in (CONTINUATION, TEXT, BINARY):
            return "an unknown opcode"
        if (opcode == CONTINUATION) != bool(self._kind):
            return "a continuation of nothing, or none where one must come"
        return "too large" if len(self._message) + length > self.most else ""


def read(data: bytes, most: int, *, from_client: bool) -> Frames:
    """Read a stream of frames as strictly as RFC 6455 asks for; see `Frames`."""
    frames = Frames(most)
    while len(data) >= 2 and not frames.fault and not frames.closed:
        first, second = data[0], data[1]
        size = {126: 2, 127: 8}.get(second & 0x7F, 0)
        start = 2 + size + (4 if second & 0x80 else 0)
        if bool(second & 0x80) != from_client:
            frames.fault = "masked" if second & 0x80 else "not masked"
        if len(data) < start:
            break
        length = int.from_bytes(data[2 : 2 + size], "big") if size else second & 0x7F
        frames.fault = frames.fault or frames.fault_of(first, length)
        if frames.fault or len(data) < start + length:
            break
        held = data[start : start + length]
        frames.add(first, masked(held, data[start - 4 : start]) if from_client else held)
        data = data[start + length :]
    frames.rest = data
    return frames
