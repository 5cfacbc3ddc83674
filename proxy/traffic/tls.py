"""Where clients' TLS ends: with leaves of the local CA, for the names of upstreams only."""

import logging
import ssl
from collections.abc import Callable
from weakref import WeakKeyDictionary

from proxy.errors import AuthorityNotTrusted, HandshakeFailed, Refusal, ServerNameUnknown
from proxy.traffic.target import Names

HANDSHAKE = 0x16
"""The first byte that a client sends which speaks TLS (RFC 8446, section 5.1)."""
_DISTRUST = ("UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "BAD_CERTIFICATE", "UNSUPPORTED_CERTIFICATE")
LOG = logging.getLogger(__name__)
_REFUSED_NAME = "CALLBACK_FAILED"


class Terminator:
    """Chooses the certificate for a client, and knows which server name each one asked for."""

    def __init__(
        self,
        leaf_context: Callable[[str], ssl.SSLContext],
        by_name: ssl.SSLContext,
        names: Names,
        default: str,
    ) -> None:
        """`leaf_context` returns the context of a host, `by_name` has no certificate of its own.

        Clients that ask for no name get the certificate of the upstream `default`.
        """
        self._leaf_context = leaf_context
        self._names = names
        self._default = names.host_of(default)
        self._asked: WeakKeyDictionary[ssl.SSLObject, str] = WeakKeyDictionary()
        self.by_name = by_name
        """Ends the TLS of a client that says which host it wants by its server name (SNI)."""
        self.by_name.sni_callback = self._choose

    def for_host(self, host: str) -> ssl.SSLContext:
        """Return what ends the TLS of a client that has named the host by its CONNECT."""
        context = self._leaf_context(host)
        context.sni_callback = self._note
        return context

    def server_name(self, tls: ssl.SSLObject) -> str | None:
        """Return the name that a client asked for in its handshake, in lower case."""
        return self._asked.get(tls)

    def _note(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        if name is not None:
            self._asked[tls] = name.lower()
        return None

    def _choose(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        self._note(tls, name, _)
        host = self._default if name is None else name.lower()
        if not self._names.on(host):
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        try:
            tls.context = self._leaf_context(host)
        except Exception:
            LOG.exception("There is no certificate for a client")
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        return None


def why_it_failed(error: Exception) -> Refusal:
    """Return what a failed handshake says of the client."""
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if any(reason.endswith(each) for each in _DISTRUST):
        return AuthorityNotTrusted("The client does not trust the certificate of the local CA.")
    if reason == _REFUSED_NAME:
        return ServerNameUnknown("The client asks for a server name that is no upstream's.")
    return HandshakeFailed("The client broke the TLS handshake off, or took too long.")
