"""Where static keys turn up that should not, and how they are kept out of what we show. Pure."""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

MAX_BODY = 65_536

_JWT = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]*")
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_SCHEME = re.compile(r"(?i)(bearer )?(.*)", re.DOTALL)

RawHeaders = Iterable[tuple[bytes, bytes]]


class KeyFinder:
    """Finds `keys` (static keys, ASCII) in the parts of a request, and redacts them."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(keys)
        self._raw = tuple(key.encode() for key in self._keys)

    def __repr__(self) -> str:
        return f"<KeyFinder {len(self._keys)} static keys>"

    def places(self, target: str, headers: RawHeaders, *, manages: bool) -> Iterator[str]:
        """Yield each place with a static key: `path`, `query` or `header:name` (lower case).

        `manages` is true for the token endpoints, whose credential headers rightly hold one.
        """
        path, _, query = target.partition("?")
        if self._in_text(path):
            yield "path"
        if query and self._in_text(query):
            yield "query"
        for name, value in headers:
            if self.in_bytes(value) and not (manages and name.lower() in _CREDENTIALS):
                yield f"header:{self.redact(name.decode('latin-1').lower())}"

    def in_bytes(self, data: bytes) -> bool:
        return any(key in data for key in self._raw)

    def _in_text(self, text: str) -> bool:
        decoded = unquote(text) if "%" in text else text
        return any(key in text or key in decoded for key in self._keys)

    def redact(self, text: str) -> str:
        """Return `text` with words in place of static keys and of anything that is a JWT.

        Text that hides a key behind percent-encoding comes back decoded.
        """
        if "%" in text and self._in_text(text):
            text = unquote(text)
        for key in self._keys:
            text = text.replace(key, "[static key]")
        return _JWT.sub("[token]", text)

    def redact_header(self, name: bytes, value: bytes) -> tuple[str, str]:
        """Return a header as text; of a credential, only its scheme and kind are left."""
        text = self.redact(value.decode("latin-1"))
        if name.lower() in _CREDENTIALS:
            text = _SCHEME.sub(_kind, text, count=1)
        return name.decode("latin-1"), text


def _kind(match: re.Match[str]) -> str:
    scheme, rest = match.groups()
    return f"{scheme or ''}{rest if rest in ('[static key]', '[token]') else '[redacted]'}"
