"""Why there is no connection, in words that are fit for clients."""

import errno
import os
import socket

import pytest

from proxy.network.errors import AddressRefused, LoopError, ResolveError, UpstreamProxyError
from proxy.network.reason import reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused"),
        (OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH)), "no route to host"),
        (socket.gaierror(socket.EAI_NONAME, "secret"), "its name could not be resolved"),
        (OSError("secret"), "no connection could be made"),
        (RuntimeError("secret"), "no connection could be made"),
        (ResolveError("it is odd"), "its name could not be resolved: it is odd"),
        (AddressRefused("private"), "its address may not be reached: it is private"),
        (LoopError("::1"), "its address, ::1, is a listener of this proxy itself"),
        (UpstreamProxyError("hung up"), "the upstream proxy hung up"),
    ],
)
def test_an_error_is_put_into_words(error: Exception, said: str) -> None:
    assert reason(error) == said
