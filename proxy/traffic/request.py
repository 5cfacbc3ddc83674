"""A request, and what its connection tells of it."""

from typing import Protocol, cast

from aiohttp import web

from proxy.traffic.auth import Auth, Evidence
from proxy.traffic.target import Entrance


class _Carrier(Protocol):
    entrance: Entrance
    auth: Auth | None
    evidence: Evidence
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

    @property
    def auth(self) -> Auth | None:
        """What asks for whose it is, None where nobody asks."""
        return cast("_Carrier", self.protocol).auth

    @property
    def evidence(self) -> Evidence:
        """What its connection tells of whose it is."""
        return cast("_Carrier", self.protocol).evidence
