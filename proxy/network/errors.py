"""What keeps a connection from coming about, beside the errors that the system has numbers for.

Each text ends a sentence that named the host, is fit for clients, and never holds a secret.
"""


class DialError(OSError):
    """No connection came about."""


class ResolveError(DialError):
    """A name did not become an address."""


class AddressRefused(DialError):  # noqa: N818 - a verdict; beside TimeoutError, say, it is no fault
    """Whoever asked may not reach any of the addresses; `kind` says what sort the last one is."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"its address may not be reached: it is {kind}")
        self.kind = kind


class LoopError(DialError):
    """The connection would have ended on a listener of this very process."""

    def __init__(self, place: str) -> None:
        super().__init__(f"its address, {place}, is a listener of this proxy itself")
        self.place = place


class UpstreamProxyError(DialError):
    """The upstream proxy did not connect us; `status` is what it answered, None for no answer."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(f"the upstream proxy {text}")
        self.status = status
