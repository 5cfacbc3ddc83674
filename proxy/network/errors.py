"""What keeps a connection from coming about, beside the errors that the system has numbers for.

Each text ends a sentence that named the host, is fit for clients, and never holds a secret.
"""

from typing import Final, Self


class DialError(OSError):
    """No connection came about."""


class ResolveError(DialError):
    """A name did not become an address."""

    def __init__(self, why: str) -> None:
        super().__init__(f"its name could not be resolved: {why}")


class AddressRefused(DialError):  # noqa: N818 - a verdict, and no fault
    """Whoever asked may not reach any of the addresses; `kind` says what sort the last one is."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"its address may not be reached: it is {kind}")
        self.kind = kind


class LoopError(DialError):
    """The connection would have ended on a listener of this very process, at `place`.

    `proxied` tells that it is the upstream proxy that is there.
    """

    def __init__(self, place: str, *, proxied: bool = False) -> None:
        whose = "the upstream proxy's" if proxied else "its"
        super().__init__(f"{whose} address, {place}, is a listener of this proxy itself")
        self.place = place
        self.proxied = proxied


class UpstreamProxyError(DialError):
    """The upstream proxy did not connect us; `status` is what it answered, None for no answer."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(f"the upstream proxy {text}")
        self.status = status

    @classmethod
    def refused(cls, status: int) -> Self:
        """Return the error for an answer with this status."""
        meaning = _MEANINGS.get(status, "it did not connect")
        return cls(f"answered {status}: {meaning}", status)


_MEANINGS: Final = {
    403: "it does not allow this connection",
    407: "it does not take the credentials in upstream_proxy",
}
