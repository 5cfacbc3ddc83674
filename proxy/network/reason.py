"""Why there is no connection, in words."""

import os
import socket
import ssl

from proxy.network.errors import DialError


def reason(error: Exception) -> str:
    """Say in a few words, fit for clients, why there is no connection."""
    match error:
        case DialError():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"its certificate was not accepted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {error.reason or 'handshake broken off'}"
        case socket.gaierror():
            return "its name could not be resolved"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number).lower()
        case _:
            return "no connection could be made"
