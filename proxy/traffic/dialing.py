"""What clients are told when no connection comes about."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.errors import AddressDenied, UpstreamLoop, UpstreamTimeout, UpstreamUnreachable
from proxy.network.errors import AddressRefused, LoopError
from proxy.network.reason import reason


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
