"""What clients are told when no connection comes about."""

import asyncio
import errno

import pytest

from proxy.errors import (
    AddressDenied,
    Refusal,
    UpstreamLoop,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.network.errors import AddressRefused, LoopError, UpstreamProxyError
from proxy.traffic.dialing import dialing


@pytest.mark.parametrize(
    ("error", "refusal", "detail"),
    [
        (OSError(errno.ECONNREFUSED, "x"), UpstreamUnreachable, "api: connection refused."),
        (RuntimeError("x"), UpstreamUnreachable, "api: no connection could be made."),
        (
            UpstreamProxyError.refused(502),
            UpstreamUnreachable,
            "api: the upstream proxy answered 502: it did not connect.",
        ),
        (
            LoopError("[::1]:80"),
            UpstreamLoop,
            "api: its address, [::1]:80, is a listener of this proxy itself.",
        ),
        (
            AddressRefused("private"),
            AddressDenied,
            "api: its address may not be reached: it is private.",
        ),
    ],
)
async def test_what_keeps_a_connection_from_coming_about_becomes_a_refusal(
    error: Exception, refusal: type[Refusal], detail: str
) -> None:
    with pytest.raises(refusal) as caught:
        async with dialing("api", 5):
            raise error
    assert type(caught.value) is refusal
    assert str(caught.value) == detail


@pytest.mark.virtual_time
async def test_a_connection_has_only_so_much_time_to_come_about() -> None:
    with pytest.raises(UpstreamTimeout, match=r"^No connection to api came about within 1\.5 s\.$"):
        async with dialing("api", 1.5):
            await asyncio.sleep(2)
    assert asyncio.get_running_loop().time() == pytest.approx(1.5)
