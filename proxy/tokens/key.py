"""The static key: where it comes from, what is refused, and how a change is noticed."""

import asyncio
import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.config import ApiKeySettings
from proxy.tokens.model import Secret

MAX_BYTES = 8192
POLL_SECONDS = 2.0
KEYS_REMEMBERED = 8
HOW_TO_GIVE = (
    "Set MOBULA_API_KEY, or MOBULA_API_KEY_FILE to a file that holds the key, "
    "or api_key.file in the settings."
)


class KeyRefusedError(Exception):
    """The static key is missing or cannot be one; the text names the source, never the key."""


@dataclass(frozen=True, slots=True)
class StaticKey:
    """A checked static key; `fingerprint` may be shown."""

    secret: Secret
    fingerprint: str


def parse_key(text: str, source: str) -> StaticKey:
    """Check a key's text as read from `source`; trailing line ends are trimmed.

    Raises KeyRefusedError with the reason.
    """
    value = text.rstrip("\r\n")
    if not value:
        raise KeyRefusedError(f"The static key from {source} is empty. {HOW_TO_GIVE}")
    if re.search(r"[^\x21-\x7e]", value):
        raise KeyRefusedError(
            f"The static key from {source} holds a space, a control character or a character "
            "outside ASCII. It must be the bare key as Mobula's dashboard shows it."
        )
    if len(value) > MAX_BYTES:
        raise KeyRefusedError(f"The static key from {source} is longer than {MAX_BYTES} bytes.")
    if _is_jwt(value):
        raise KeyRefusedError(
            f"The static key from {source} is a short-lived token (a JWT), which cannot mint "
            "tokens. Give the long-lived API key from Mobula's dashboard."
        )
    digest = hashlib.sha256(value.encode()).hexdigest()
    return StaticKey(Secret(value), digest[:8])


def _is_jwt(value: str) -> bool:
    head, *rest = value.split(".")
    if len(rest) != 2:
        return False
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


class KeySource:
    """Where the static key is read from: a fixed value of the environment, or a file."""

    def __init__(
        self,
        *,
        name: str,
        value: str | None = None,
        path: Path | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.name = name
        self._value = value
        self._path = path
        self._poll_seconds = poll_seconds

    def __repr__(self) -> str:
        return f"<KeySource {self.name}>"

    @property
    def changes(self) -> bool:
        """Tell whether the key may change while the process runs."""
        return self._path is not None

    def read(self) -> StaticKey:
        """Read the key; blocking. Raises KeyRefusedError."""
        if self._path is None:
            return parse_key(self._value or "", self.name)
        try:
            with self._path.open("rb") as file:
                text = file.read(MAX_BYTES + 3)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise KeyRefusedError(
                f"The static key cannot be read from {self.name}: {reason}."
            ) from error
        return parse_key(text.decode("latin-1"), self.name)

    async def changed(self, key: StaticKey | None) -> AsyncIterator[StaticKey | KeyRefusedError]:
        """Yield every key that is not the one before, and once each reason for having none.

        The content is compared, not its times: that covers a rewrite in place as well as the
        symlink swap by which Kubernetes updates a mounted Secret.
        """
        complaint = ""
        while self.changes:
            await asyncio.sleep(self._poll_seconds)
            try:
                found = await asyncio.to_thread(self.read)
            except KeyRefusedError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    yield error
                continue
            complaint = ""
            if key is None or found.secret != key.secret:
                key = found
                yield key


def find_key_source(settings: ApiKeySettings, environ: Mapping[str, str]) -> KeySource:
    """Return the source that wins: the environment, then `api_key.file`.

    Raises KeyRefusedError when there is none, or when the environment names two.
    """
    value, file = environ.get("MOBULA_API_KEY"), environ.get("MOBULA_API_KEY_FILE")
    if value is not None and file is not None:
        raise KeyRefusedError("MOBULA_API_KEY and MOBULA_API_KEY_FILE are both set: unset one.")
    if value is not None:
        return KeySource(name="MOBULA_API_KEY", value=value)
    if file == "":
        raise KeyRefusedError(f"MOBULA_API_KEY_FILE is set but empty. {HOW_TO_GIVE}")
    path = file if file is not None else settings.file
    if path is None:
        raise KeyRefusedError(f"No static key. {HOW_TO_GIVE}")
    return KeySource(name=f"file {path}", path=Path(path))


class KnownKeys:
    """Every static key this process has used, for finding them where they must not go."""

    def __init__(self) -> None:
        self._plain: tuple[bytes, ...] = ()
        self._encoded: tuple[re.Pattern[bytes], ...] = ()

    def __repr__(self) -> str:
        return f"<KnownKeys {len(self._plain)}>"

    def add(self, key: StaticKey) -> None:
        value = key.secret.reveal().encode()
        if value not in self._plain:
            self._plain = (*self._plain, value)[-KEYS_REMEMBERED:]
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
    return re.compile(b"".join(b"(?:%s|%%(?i:%02x))" % (re.escape(bytes([c])), c) for c in key))
