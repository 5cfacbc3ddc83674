"""One small object a request; metrics and the access log are handed it when the request is over."""

from collections.abc import Callable
from dataclasses import dataclass, field

OTHER_HOSTS = "(other)"
"""In place of an upstream's name: for hosts that are none, and it can be none's own."""


@dataclass(slots=True)
class Fact:
    """What became of one request; times in seconds, `path` without query and without keys.

    `status` is 0 if the client left before an answer. `code` is our own error's, else empty.
    `complete` is False if the answer broke off after its head. `client` is the name of who was
    recognised, empty where nobody asks.
    """

    upstream: str
    method: str = ""
    path: str = ""
    status: int = 0
    code: str = ""
    attempts: int = 0
    seconds: float = 0.0
    complete: bool = True
    client: str = ""
    stripped: list[str] = field(default_factory=list)


Observer = Callable[[Fact], None]


@dataclass(frozen=True, slots=True)
class Reread:
    """A file has changed, and was read again; `problem` says why what it said before stays."""

    file: str
    problem: str = ""
