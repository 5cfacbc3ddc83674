"""Where clients' TLS ends: with leaves of the local CA, for the names of upstreams only."""

import asyncio
import contextlib
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

from proxy.errors import (
    AuthorityNotTrusted,
    ClientCertificateRefused,
    HandshakeFailed,
    Refusal,
)

HANDSHAKE = 0x16
"""The first byte that a client sends which speaks TLS (RFC 8446, section 5.1)."""
_ALPN = ("http/1.1",)
_DISTRUST = ("UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "BAD_CERTIFICATE", "UNSUPPORTED_CERTIFICATE")


def bare_context() -> ssl.SSLContext:
    """Return a context without a certificate: to give one to, or to read with for whom it is (SNI).

    OpenSSL gives sessions to the context that a handshake began with, and would take up one of one
    host for another, without showing a certificate. So each host has a context of its own, and TLS
    1.3 has no sessions. TLS 1.2 always has: without tickets OpenSSL would keep them in memory.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_ALPN)
    return context


class Terminator:
    """What the TLS of a listener's clients ends with."""

    def __init__(self, context: Callable[[str], ssl.SSLContext], *, pins: bool = True) -> None:
        """`context` returns what is shown to who asks for a host.

        A terminator that `pins` poses as upstreams: a connection is for the host that it asks for.
        """
        self.context = context
        self.pins = pins
        self._bare = bare_context()
        self._bare.sslobject_class = _Asking
        self._bare.sni_callback = cast("Any", _Asking.ask)

    def hello(self) -> "Hello":
        """Return what reads the first message of a client."""
        return Hello(self._bare)


class Hello:
    """What a client says first in TLS, as OpenSSL reads it.

    It is read before the handshake, since the loop keeps to itself what OpenSSL would answer if
    that failed: so a client that asks for a wrong name would not learn why it is turned away.
    """

    def __init__(self, bare: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = bare.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._tls = cast("_Asking", tls)
        self._read = 0

    def __repr__(self) -> str:
        return f"<Hello {self._read} bytes read, for {self.name}>"

    @property
    def name(self) -> str | None:
        """The server name (SNI) that the client asks for, in lower case, if it asks for one."""
        return self._tls.name

    def read(self, came: bytes) -> bool:
        """Read on in all that has come so far; tell whether it is whole. Raises HandshakeFailed."""
        self._incoming.write(came[self._read :])
        self._read = len(came)
        try:
            with _silent():
                self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            if not self._tls.has_asked:
                raise why_it_failed(error) from None
        return True

    def alert(self) -> bytes:
        """Return what tells the client that it is turned away, and why."""
        return self._outgoing.read()


class _Asking(ssl.SSLObject):
    """A handshake that ends as soon as it is known which server name the client asks for."""

    has_asked = False
    name: str | None = None

    def ask(self, name: str | None, _: ssl.SSLContext) -> int:
        self.has_asked = True
        self.name = name and name.lower()
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep Python from printing what it says, a client's bytes too, of a name that is not ASCII."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


async def shake_hands(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    *,
    came: bytes,
    seconds: float,
) -> asyncio.Transport | None:
    """End a client's TLS; return what `protocol` then speaks through. Raises OSError.

    `came` is what has been read of the client, of which nothing else may be read meanwhile.
    """
    loop = asyncio.get_running_loop()
    shaking = loop.create_task(
        loop.start_tls(
            transport, protocol, context, server_side=True, ssl_handshake_timeout=seconds
        )
    )
    # Just behind the turn of the loop in which TLS has begun to listen, and before it reads.
    loop.call_soon(loop.call_soon, _feed, transport, came)
    return await shaking


def _feed(transport: asyncio.Transport, came: bytes) -> None:
    """Give to TLS what has come for it already."""
    if transport.is_closing():
        return
    tls = cast("asyncio.BufferedProtocol", transport.get_protocol())
    while came:
        buffer = memoryview(tls.get_buffer(len(came)))
        size = min(len(buffer), len(came))
        buffer[:size] = came[:size]
        tls.buffer_updated(size)
        came = came[size:]


def why_it_failed(error: Exception) -> Refusal:
    """Return what a failed handshake says of the client."""
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if reason == "CERTIFICATE_VERIFY_FAILED":
        return ClientCertificateRefused("The client's certificate is not a good one.")
    if any(reason.endswith(each) for each in _DISTRUST):
        return AuthorityNotTrusted("The client does not trust the certificate of the local CA.")
    return HandshakeFailed("The client broke the TLS handshake off, or took too long.")
