"""The head of an answer and how its body is framed: values without IO."""

from dataclasses import dataclass
from enum import Enum


class Framing(Enum):
    """Where a message's body ends (RFC 9112, section 6)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


@dataclass(slots=True)
class ResponseHead:
    """An upstream's answer up to its body: exact bytes, in order, as they came.

    `length` is the body's size in bytes, None unless the framing is LENGTH.
    """

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    framing: Framing
    length: int | None
