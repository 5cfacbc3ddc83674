"""Faults: what goes wrong on purpose, as data, and which request each one strikes. Pure.

A request picks its own with the header `X-Sandbox-Fault: status=503; delay=0.2` (data endpoints
only). Standing faults strike by path, on every endpoint, until they are used up or cleared.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, cast, get_args

from proxy.sandbox.answer import JSON, Answer, MalformedError, phrase, refusal, refuse_unknown

Drop = Literal["head", "body"]

MAX_DELAY = 3600.0
MAX_STANDING = 1000

_FRAMING = {"content-length", "transfer-encoding", "connection"}
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_NUMBER = (int, float)
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "path": ((str,), "text"),
    "method": ((str,), "text"),
    "status": ((int,), "a whole number"),
    "delay": (_NUMBER, "a number of seconds"),
    "drop": ((str,), "head or body"),
    "revoke": ((bool,), "true or false"),
    "body": ((str,), "text"),
    "headers": ((dict,), "an object of texts"),
    "times": ((int,), "a whole number"),
    "until": (_NUMBER, "a time in seconds"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to go wrong. Raises MalformedError, saying what would be right, for wrong values.

    `path` is compared whole, or as a prefix when it ends in `*`; None strikes every path.
    `method` None strikes every method. The effects combine, in this order: `delay` waits that many
    seconds; `drop="head"` closes the connection without an answer; `revoke` revokes the token of
    the request, which then gets 401; `status`, `body` and `headers` replace the answer (200 if
    only `body` is given), and what was asked for is not done; `drop="body"` sends a head that
    promises more than comes, then closes. `times` is how often it strikes, `until` the clock's
    time (seconds, without skew) from which it no longer does.
    """

    path: str | None = None
    _: KW_ONLY
    method: str | None = None
    status: int | None = None
    delay: float = 0.0
    drop: Drop | None = None
    revoke: bool = False
    body: bytes | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        if self.status is not None and not 200 <= self.status <= 599:
            raise MalformedError(f"status must be 200 to 599, not {self.status}")
        if not 0 <= self.delay <= MAX_DELAY:
            raise MalformedError(f"delay must be 0 to {MAX_DELAY:.0f} seconds, not {self.delay}")
        if self.drop is not None and self.drop not in get_args(Drop):
            raise MalformedError("drop must be head or body")
        if self.times is not None and self.times < 1:
            raise MalformedError(f"times must be 1 or more, not {self.times}")
        if self.until is not None and not -math.inf < self.until < math.inf:
            raise MalformedError("until must be a time in seconds")
        self._check_headers()
        if not (self.delay or self.drop or self.revoke or self._replaces):
            raise MalformedError("a fault needs status, delay, drop, revoke or body")

    def _check_headers(self) -> None:
        for name, value in self.headers.items():
            if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
                raise MalformedError("headers: a name must be letters, digits, '-' and '_'")
            if name.lower() in _FRAMING:
                raise MalformedError(f"headers: {name} is set by the server")
            if not isinstance(value, str):
                raise MalformedError("headers must be an object of texts")
            if not value.isprintable():
                raise MalformedError(f"headers: the value of {name} must be printable")
        if self.headers and not self._replaces:
            raise MalformedError("headers need status or body")

    @property
    def _replaces(self) -> bool:
        return self.status is not None or self.body is not None

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> "Fault":
        """Return the fault that a JSON object describes, with the field names of this class."""
        refuse_unknown(fields, _TYPES)
        given = {name: value for name, value in fields.items() if value is not None}
        for name, value in given.items():
            types, words = _TYPES[name]
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise MalformedError(f"{name} must be {words}")
        return cls(**cast("dict[str, Any]", given))

    @classmethod
    def from_header(cls, text: str) -> "Fault":
        """Return the fault of an `X-Sandbox-Fault` value: `status=503; delay=0.2; revoke`."""
        effects: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(";"))):
            name, _, value = part.partition("=")
            effects[name.strip()] = _effect(name.strip(), value.strip())
        return cls(**effects)

    def answer(self) -> Answer | None:
        """Return what to answer instead, or None if the real answer is to go out."""
        if not self._replaces:
            return None
        status, body, kind = self.status or 200, self.body, _TEXT
        if body is None:
            body, kind = refusal(status, f"Sandbox fault: {phrase(status)}").body, JSON
        if any(name.lower() == "content-type" for name in self.headers):
            kind = {}
        body = body.encode(errors="replace") if isinstance(body, str) else body
        return Answer(status, body, {**kind, **self.headers})

    def strikes(self, method: str, path: str) -> bool:
        return self.method in (None, method) and _matches(self.path, path)


def _matches(pattern: str | None, path: str) -> bool:
    if pattern is None:
        return True
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def _effect(name: str, value: str) -> object:
    try:
        match name:
            case "status":
                return int(value)
            case "delay":
                return float(value)
            case "drop":
                return value
            case "revoke" if not value:
                return True
    except ValueError:
        raise MalformedError(f"X-Sandbox-Fault: {name} must be a number") from None
    raise MalformedError(
        "X-Sandbox-Fault: known are status=N, delay=SECONDS, drop=head|body, revoke"
    )


class Faults:
    """The standing faults, in the order they were added."""

    def __init__(self) -> None:
        self._standing: list[_Standing] = []

    def __repr__(self) -> str:
        return f"<Faults {len(self._standing)} standing>"

    def __len__(self) -> int:
        return len(self._standing)

    def add(self, fault: Fault) -> None:
        """Let `fault` stand; MalformedError when too many stand already."""
        if len(self._standing) >= MAX_STANDING:
            raise MalformedError(f"no more than {MAX_STANDING} faults may stand")
        self._standing.append(_Standing(fault, fault.times))

    def clear(self) -> None:
        self._standing.clear()

    def take(self, method: str, path: str, now: float) -> Fault | None:
        """Return the first standing fault that strikes this request, and count it as used once."""
        if not self._standing:
            return None
        self._standing = [entry for entry in self._standing if not entry.over(now)]
        for entry in self._standing:
            if entry.fault.strikes(method, path):
                entry.use()
                return entry.fault
        return None


@dataclass(slots=True)
class _Standing:
    fault: Fault
    left: int | None

    def over(self, now: float) -> bool:
        until = self.fault.until
        return self.left == 0 or (until is not None and now >= until)

    def use(self) -> None:
        if self.left is not None:
            self.left -= 1
