"""How a client gets in through a listener of each mode, up to where it can send requests."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from proxy.app import App
from wire import Wire, client

Enter = Callable[[], AbstractAsyncContextManager[Wire]]
"""Opens a connection on which requests can be sent, as if to an origin server."""


def _reverse(app: App) -> Enter:
    return lambda: client(app)


DOORS: dict[str, Callable[[App], Enter]] = {"reverse": _reverse}
