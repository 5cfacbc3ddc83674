"""The static keys that this process has used, as they are found where they must not go. Pure."""

import re

from proxy.tokens.model import Secret

KEYS_REMEMBERED = 8


class KnownKeys:
    """Every static key this process has used, for finding them where they must not go."""

    def __init__(self) -> None:
        self._kept: tuple[bytes, ...] = ()
        self._used: tuple[bytes, ...] = ()
        self._plain: tuple[bytes, ...] = ()
        self._encoded: tuple[re.Pattern[bytes], ...] = ()

    def __repr__(self) -> str:
        return f"<KnownKeys {len(self._plain)}>"

    def add(self, key: Secret) -> None:
        """Count a static key among them."""
        value = key.reveal().encode()
        if value not in self._used:
            self._used = (*self._used, value)[-KEYS_REMEMBERED:]
            self._prepare()

    def keep(self, stand_in: Secret) -> None:
        """Count among them what an app holds in place of a key, however many come after it."""
        self._kept = (*self._kept, stand_in.reveal().encode())
        self._prepare()

    def _prepare(self) -> None:
        self._plain = self._kept + self._used
        self._encoded = tuple(map(_percent_pattern, self._plain))

    def occur_in(self, data: bytes) -> bool:
        """Tell whether a key stands in `data`, be it percent-encoded."""
        return any(key in data for key in self._plain) or (
            b"%" in data and any(pattern.search(data) for pattern in self._encoded)
        )

    def cut_from(self, data: bytes) -> bytes:
        """Return `data` without any key, be it percent-encoded."""
        for pattern in self._encoded:
            data = pattern.sub(b"", data)
        return data


def _percent_pattern(key: bytes) -> re.Pattern[bytes]:
    """Return what matches a key, also where some or all of it is percent-encoded."""
    return re.compile(b"".join(b"(?:%s|%%(?i:%02x))" % (re.escape(bytes([c])), c) for c in key))
