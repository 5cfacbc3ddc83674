"""Credentials in WebSocket messages: those that a token replaces, and keys elsewhere. Pure.

Mobula's clients show their credential in each JSON message that needs one, as the string of its
top-level member `authorization`; a token goes there as it is, without `Bearer `.
"""

import json
import re
from collections.abc import Iterator

from proxy.errors import MessageDenied
from proxy.traffic.target import KeyFinder

MEMBER = "authorization"

_NESTING = 3
"""How often JSON may stand in a string of JSON and still be searched for keys in its escapes."""
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_MARK = re.compile(r"[ \t\n\r]*([{}:,])[ \t\n\r]*")
_ESCAPE = re.compile(rb'\\(?:u00([2-7][0-9A-Fa-f])|(["\\/]))')


def around_credentials(message: bytes) -> list[bytes]:
    """Return what stands before, between and after the credentials of a text message.

    One piece means that it has none, as has everything that is not a JSON object. The message must
    be UTF-8. Raises MessageDenied for one that cannot be judged.
    """
    if MEMBER.encode() not in message and b"\\" not in message:
        return [message]
    text = message.decode()
    pieces, done = [], 0
    try:
        for name, start, end in _members(text):
            if name == MEMBER and text[start] == '"':
                pieces.append(text[done:start].encode())
                done = end
    except ValueError:
        return [message]
    except RecursionError:
        raise MessageDenied("It is nested too deeply to be searched for credentials.") from None
    return [*pieces, text[done:].encode()]


def with_token(pieces: list[bytes], token: str) -> bytes:
    """Put a message together again, with a token where its credentials stood."""
    return json.dumps(token).encode().join(pieces)


def deny_keys(pieces: list[bytes], keys: KeyFinder) -> None:
    """Raise MessageDenied if a static key stands in a message, or in what is around credentials."""
    if any(_holds_key(each, keys) for each in pieces):
        raise MessageDenied(f"A static key stands elsewhere than in a top-level {MEMBER}.")


def _holds_key(data: bytes, keys: KeyFinder) -> bool:
    for _ in range(_NESTING):
        if keys.occur_in(data):
            return True
        if b"\\" not in data:
            return False
        data = _ESCAPE.sub(_unescaped, data)
    return keys.occur_in(data)


def _unescaped(escape: re.Match[bytes]) -> bytes:
    return escape[2] or bytes.fromhex(escape[1].decode())


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each member of a JSON object, and from where to where its value stands.

    Raises ValueError as soon as it turns out not to be a JSON object.
    """
    mark, at = _mark(text, 0, "{")
    if text.startswith("}", at):
        return
    while mark != "}":
        name, at = _DECODER.raw_decode(text, at)
        if not isinstance(name, str):
            raise ValueError("a name must be a string")
        _, start = _mark(text, at, ":")
        _, end = _DECODER.raw_decode(text, start)
        yield name, start, end
        mark, at = _mark(text, end, ",}")
    if at < len(text):
        raise ValueError("something stands behind the object")


def _mark(text: str, at: int, expected: str) -> tuple[str, int]:
    """Return the one of the `expected` marks that comes next, and the place behind it."""
    found = _MARK.match(text, at)
    if found is None or found[1] not in expected:
        raise ValueError(f"{expected} must come next")
    return found[1], found.end()
