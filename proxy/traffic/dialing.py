"""What clients are told when no connection comes about."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.errors import AddressDenied, UpstreamLoop, UpstreamTimeout, UpstreamUnreachable
from proxy.network.errors import AddressRefused, DialError, LoopError


@asynccontextmanager
async def dialing(name: str, seconds: float) -> AsyncIterator[None]:
    """Give a connection to `name` so many seconds to come about, and raise a refusal if none does.

    The refusal is an UpstreamTimeout, UpstreamLoop, AddressDenied or UpstreamUnreachable.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        detail = f"No connection to {name} came about within {seconds:g} s."
        raise UpstreamTimeout(detail) from None
    except LoopError as error:
        raise UpstreamLoop(f"{name}: {error}.") from error
    except AddressRefused as error:
        raise AddressDenied(f"{name}: {error}.") from error
    except (OSError, RuntimeError) as error:  # uvloop: RuntimeError for some
        raise UpstreamUnreachable(f"{name}: {reason(error)}.") from error


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
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
        case _:
            return "no connection could be made"
