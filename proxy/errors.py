"""The refusals: every error that this proxy itself answers a client with.

Each knows its HTTP status and its code, the word that goes into `X-Mobula-Proxy-Error` and the
problem document (RFC 9457). Errors are raised where they arise and translated once, in
`traffic.handler`, or in `traffic.websocket` once there is no other way than a Close frame. A detail
is text for the client: it never holds a secret.
"""

import json
from typing import ClassVar

ERROR_HEADER = "X-Mobula-Proxy-Error"
"""What tells an answer of ours from an upstream's."""


class Refusal(Exception):
    """Base of all refusals; `retry_after` is in seconds, None when waiting would not help."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    keeps_connection: ClassVar[bool] = True
    """False when the next bytes on the client's connection cannot be trusted to be a request."""
    fields: ClassVar[bytes] = b""
    """Header lines that the status demands."""
    close_code: int = 1011
    """What a Close frame says in place of the status (RFC 6455, section 7.4)."""

    def __init__(self, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after

    def problem(self) -> bytes:
        """Return the problem document (RFC 9457, section 3) as JSON bytes."""
        return json.dumps(
            {
                "type": f"urn:mobula-proxy:error:{self.code}",
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
                "code": self.code,
            }
        ).encode()


class MalformedRequest(Refusal):
    status, code, title = 400, "malformed_request", "Malformed HTTP request"
    keeps_connection = False


class ClientUnknown(Refusal):
    status, code, title = 401, "client_unknown", "Client credential missing"
    fields = b'WWW-Authenticate: Bearer realm="mobula-proxy"\r\n'
    close_code = 1008


class TlsRequired(Refusal):
    status, code, title = 400, "tls_required", "This listener speaks TLS"
    keeps_connection = False


class AuthPathDenied(Refusal):
    status, code, title = 403, "auth_path_denied", "Tokens are managed by the proxy"


class ClientDenied(Refusal):
    status, code, title = 403, "client_denied", "Client may not do that"
    close_code = 1008


class HostDenied(Refusal):
    status, code, title = 403, "host_denied", "Host not allowed"
    keeps_connection = False


class AddressDenied(Refusal):
    status, code, title = 403, "address_denied", "Address may not be reached"


class MethodDenied(Refusal):
    status, code, title = 405, "method_denied", "Method not allowed"
    keeps_connection = False


class ProxyClientUnknown(Refusal):
    status, code, title = 407, "client_unknown", "Client credential missing"
    fields = b'Proxy-Authenticate: Basic realm="mobula-proxy"\r\n'
    close_code = 1008


class RequestTimeout(Refusal):
    status, code, title = 408, "request_timeout", "Request came too slowly"
    keeps_connection = False


class BodyTooLarge(Refusal):
    status, code, title = 413, "body_too_large", "Request body too large"
    keeps_connection = False


class TargetTooLong(Refusal):
    status, code, title = 414, "target_too_long", "Request target too long"
    keeps_connection = False


class ExpectationFailed(Refusal):
    status, code, title = 417, "expectation_failed", "Unknown expectation"


class Misdirected(Refusal):
    status, code, title = 421, "misdirected_request", "Request for another host"
    keeps_connection = False


class WebSocketVersion(Refusal):
    status, code, title = 426, "websocket_version", "WebSocket version not supported"
    keeps_connection = False
    fields = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"


class ClientRateLimited(Refusal):
    status, code, title = 429, "client_rate_limited", "Client sends too many requests a second"
    close_code = 1013


class ClientQuotaUsedUp(Refusal):
    status, code, title = 429, "client_quota_used_up", "Client has sent its requests of the day"
    close_code = 1013


class HeadersTooLarge(Refusal):
    status, code, title = 431, "headers_too_large", "Request header fields too large"
    keeps_connection = False


class UpgradeUnsupported(Refusal):
    status, code, title = 501, "upgrade_unsupported", "Protocol upgrade not supported"
    keeps_connection = False


class TransferCodingUnsupported(Refusal):
    status, code, title = 501, "transfer_coding_unsupported", "Transfer coding not supported"
    keeps_connection = False


class UpstreamUnreachable(Refusal):
    status, code, title = 502, "upstream_unreachable", "Upstream unreachable"


class UpstreamClosed(Refusal):
    """The connection ended before the answer did; `answered` tells whether a byte had come."""

    status, code, title = 502, "upstream_closed", "Upstream closed the connection"

    def __init__(self, detail: str, *, answered: bool) -> None:
        super().__init__(detail)
        self.answered = answered


class UpstreamInvalid(Refusal):
    status, code, title = 502, "upstream_invalid", "Upstream answer is not valid HTTP"


class ClientReviewUnavailable(Refusal):
    status, code, title = 503, "client_review_unavailable", "Client credential cannot be checked"


class TokenUnavailable(Refusal):
    status, code, title = 503, "token_unavailable", "No token available"
    close_code = 1013


class TooManyConnections(Refusal):
    status, code, title = 503, "too_many_connections", "Too many connections"
    keeps_connection = False


class TooManyRequests(Refusal):
    status, code, title = 503, "too_many_requests", "Too many requests at once"


class UpstreamBusy(Refusal):
    status, code, title = 503, "upstream_busy", "All upstream connections are busy"


class UpstreamTimeout(Refusal):
    status, code, title = 504, "upstream_timeout", "Upstream too slow"


class TotalTimeout(Refusal):
    status, code, title = 504, "total_timeout", "Request took too long"


class VersionUnsupported(Refusal):
    status, code, title = 505, "version_unsupported", "HTTP version not supported"
    keeps_connection = False


class UpstreamLoop(Refusal):
    status, code, title = 508, "upstream_loop", "Upstream leads back to this proxy"


# What befalls a client that asks for TLS; it is told by TLS itself, so the status goes nowhere


class AuthorityNotTrusted(Refusal):
    code, title = "ca_not_trusted", "The client does not trust the local CA"


class ServerNameUnknown(Refusal):
    code, title = "server_name_unknown", "TLS for a name that is no upstream's"


class ClientCertificateRefused(Refusal):
    code, title = "client_certificate_refused", "The client's certificate is not a good one"


class HandshakeFailed(Refusal):
    code, title = "tls_handshake_failed", "TLS with the client failed"


# What befalls a WebSocket that is open; it is told in a Close frame, so the status goes nowhere


class Draining(Refusal):
    code, close_code = "draining", 1001


class WebSocketIdle(Refusal):
    code, close_code = "websocket_idle", 1001


class MalformedMessage(Refusal):
    """`close_code` tells what is wrong: 1002 the framing, 1007 the text."""

    code = "malformed_message"

    def __init__(self, detail: str, close_code: int) -> None:
        super().__init__(detail)
        self.close_code = close_code


class MessageDenied(Refusal):
    code, close_code = "message_denied", 1008


class MessageTooLarge(Refusal):
    code, close_code = "message_too_large", 1009
