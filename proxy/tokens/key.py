"""The static key: where it comes from, what is refused, and how a change is noticed.

A fleet's store secret comes from the same kinds of sources.
"""

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

from proxy.config import ApiKeySettings, StoreSecretSettings
from proxy.settings.problems import STATIC_KEY, STORE_SECRET, SecretPlace
from proxy.tokens.model import Secret

MAX_BYTES = 8192
STORE_SECRET_BYTES = 32
"""The shortest store secret; as random hex digits it has 128 bits."""
POLL_SECONDS = 2.0


class KeyRefusedError(Exception):
    """A static key or store secret is missing or cannot be one; the text names only the source."""


def how_to_give(place: SecretPlace) -> str:
    """Return a sentence on where to put the secret."""
    return (
        f"Set {place.variable}, or {place.variable}_FILE to a file that holds it, "
        f"or {place.name}.file in the settings."
    )


@dataclass(frozen=True, slots=True)
class StaticKey:
    """A checked static key; `fingerprint` may be shown."""

    secret: Secret
    fingerprint: str


def parse_key(text: str, source: str) -> StaticKey:
    """Check a key's text as read from `source`; trailing line ends are trimmed.

    Raises KeyRefusedError with the reason.
    """
    value = _bare(text, STATIC_KEY, source, "the bare key as Mobula's dashboard shows it")
    if _is_jwt(value):
        raise KeyRefusedError(
            f"The static key from {source} is a short-lived token (a JWT), which cannot mint "
            "tokens. Give the long-lived API key from Mobula's dashboard."
        )
    secret = Secret(value)
    return StaticKey(secret, fingerprint(secret))


def fingerprint(key: Secret) -> str:
    """Return what may be shown of a static key."""
    return hashlib.sha256(key.reveal().encode()).hexdigest()[:8]


def parse_store_secret(text: str, source: str) -> Secret:
    """Check a store secret as `parse_key` checks a key. Raises KeyRefusedError."""
    hint = "e.g. what `openssl rand -hex 32` prints"
    value = _bare(text, STORE_SECRET, source, hint)
    if len(value) < STORE_SECRET_BYTES:
        raise KeyRefusedError(
            f"The store secret from {source} is shorter than {STORE_SECRET_BYTES} characters. "
            f"It must be hard to guess, {hint}."
        )
    return Secret(value)


def _bare(text: str, place: SecretPlace, source: str, right: str) -> str:
    """Return the text without line ends at its end; it then fits into a header."""
    value = text.rstrip("\r\n")
    name = f"The {place.noun} from {source}"
    if not value:
        raise KeyRefusedError(f"{name} is empty. {how_to_give(place)}")
    if re.search(r"[^\x21-\x7e]", value):
        raise KeyRefusedError(
            f"{name} holds a space, a control character or a character outside ASCII. "
            f"It must be {right}."
        )
    if len(value) > MAX_BYTES:
        raise KeyRefusedError(f"{name} is longer than {MAX_BYTES} bytes.")
    return value


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
    """Where a secret is read from: a fixed value of the environment, or a file."""

    def __init__(
        self,
        *,
        name: str,
        value: str | None = None,
        path: Path | None = None,
        noun: str = STATIC_KEY.noun,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.name = name
        self.path = path
        """The file; None for a value."""
        self._value = value
        self._noun = noun
        self._poll_seconds = poll_seconds

    def __repr__(self) -> str:
        return f"<KeySource {self.name}>"

    @property
    def changes(self) -> bool:
        """Tell whether the key may change while the process runs."""
        return self.path is not None

    def read(self) -> StaticKey:
        """Read the static key; blocking. Raises KeyRefusedError."""
        return parse_key(self.text(), self.name)

    def text(self) -> str:
        """Read what stands there; blocking. Raises KeyRefusedError."""
        if self.path is None:
            return self._value or ""
        try:
            with self.path.open("rb") as file:
                text = file.read(MAX_BYTES + 3)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise KeyRefusedError(
                f"The {self._noun} cannot be read from {self.name}: {reason}."
            ) from error
        return text.decode("latin-1")

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
    source = _find(STATIC_KEY, settings.file, environ)
    if source is None:
        raise KeyRefusedError(f"No static key. {how_to_give(STATIC_KEY)}")
    return source


def find_store_secret(
    settings: StoreSecretSettings, environ: Mapping[str, str], *, needed: bool
) -> Secret | None:
    """Read the store secret from the source that wins; without one, the static key seals.

    Raises KeyRefusedError for one that cannot be one, and for none where it is `needed`: there is
    no static key then.
    """
    source = find_store_secret_source(settings, environ)
    if source is not None:
        return parse_store_secret(source.text(), source.name)
    if needed:
        raise KeyRefusedError(
            f"No store secret, which a member needs to read its fleet's tokens. "
            f"{how_to_give(STORE_SECRET)}"
        )
    return None


def find_store_secret_source(
    settings: StoreSecretSettings, environ: Mapping[str, str]
) -> KeySource | None:
    """Return the source that wins, None where there is none. Raises KeyRefusedError for two."""
    return _find(STORE_SECRET, settings.file, environ)


def _find(place: SecretPlace, setting: str | None, environ: Mapping[str, str]) -> KeySource | None:
    variable = place.variable
    value, file = environ.get(variable), environ.get(f"{variable}_FILE")
    if value is not None and file is not None:
        raise KeyRefusedError(f"{variable} and {variable}_FILE are both set: unset one.")
    if value is not None:
        return KeySource(name=variable, value=value, noun=place.noun)
    if file == "":
        raise KeyRefusedError(f"{variable}_FILE is set but empty. {how_to_give(place)}")
    path = file if file is not None else setting
    if path is None:
        return None
    return KeySource(name=f"file {path}", path=Path(path), noun=place.noun)
