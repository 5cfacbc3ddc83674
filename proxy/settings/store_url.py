"""Where the tokens are kept: in memory, in an SQLite file, or on a Redis server.

A URL may hold a password, so it redacts itself. What it is redacted to is refused as a URL: nobody
should try `***` for a password because they copied what `check` printed.
"""

import re
from typing import Annotated, Self

from msgspec import Struct

from proxy.settings.redis_url import RedisUrl, is_redis
from proxy.settings.values import Leaf, Wrong

_MEMORY = "memory://"
_SQLITE = "sqlite:///"
_HIDDEN = "***"
_SECRETS = re.compile(r"(?<=://)[^/?#]*(?=@)|(?<=[?&])(?!(?:db|ssl_ca_certs)=)[^&]+")
"""User name and password, and every option that may not be shown."""


class StoreUrl(Struct, frozen=True):
    """A checked URL of a store; `str` and `repr` leave out its credentials.

    Made without a text it is for `Settings` to fill in; a reader never sees that one.
    """

    _text: str = ""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read the URL of a store; raise Wrong for anything else."""
        if not isinstance(value, str):
            raise Wrong("must be text")
        if value.startswith("sqlite:"):
            _check_sqlite(value)
        elif is_redis(value):
            if _HIDDEN in value and _redacted(value) == value:
                raise Wrong(f"must have its credentials in place of {_HIDDEN}")
            RedisUrl.parse(value)
        elif value != _MEMORY:
            raise Wrong("must be memory://, sqlite:///path or redis://host:port")
        return cls(value)

    @classmethod
    def of_file(cls, path: str) -> Self:
        """Return the URL of an SQLite file."""
        return cls(_SQLITE + path)

    @property
    def in_memory(self) -> bool:
        return self._text == _MEMORY

    @property
    def file(self) -> str | None:
        """The path of the SQLite file; None where there is none."""
        return self._text.removeprefix(_SQLITE) if self._text.startswith(_SQLITE) else None

    @property
    def hides(self) -> bool:
        """Whether it holds credentials."""
        return str(self) != self._text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __str__(self) -> str:
        return _redacted(self._text) if is_redis(self._text) else self._text

    def __repr__(self) -> str:
        return f"StoreUrl({str(self)!r})"


MEMORY = StoreUrl(_MEMORY)


def _redacted(text: str) -> str:
    return _SECRETS.sub(_HIDDEN, text)


def _check_sqlite(text: str) -> None:
    path = text.removeprefix(_SQLITE)
    if not text.startswith(_SQLITE) or not path.isprintable() or path in {"", ":memory:"}:
        raise Wrong(
            "must name a file: sqlite:///tokens.db in the working directory, "
            "or with four slashes sqlite:////var/lib/mobula-proxy/tokens.db"
        )


AnyStoreUrl = Annotated[
    StoreUrl,
    Leaf(
        StoreUrl.parse,
        {
            "type": "string",
            "pattern": r"^(?:memory://$|sqlite:///.|rediss?(?:\+(?:sentinel|cluster))?://.|unix:///.)",
        },
        write=str,
        secret=True,
    ),
]
"""A StoreUrl; text `memory://`, `sqlite:///path`, `redis://…` or one of its relatives."""
