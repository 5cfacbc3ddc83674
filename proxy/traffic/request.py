"""A request, and what its connection tells of it."""

from typing import Protocol, cast

from aiohttp import web

from proxy.traffic.target import Entrance


class _Carrier(Protocol):
    entrance: Entrance
    takes_more: bool


class FrontRequest(web.BaseRequest):
    """A request whose answer says so if its connection takes no other one."""

    @property
    def keep_alive(self) -> bool:
        return super().keep_alive and cast("_Carrier", self.protocol).takes_more

    @property
    def entrance(self) -> Entrance:
        """What its connection says of it."""
        return cast("_Carrier", self.protocol).entrance
