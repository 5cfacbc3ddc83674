"""Speaks to the admin listener of a running proxy, for `status`, `wait`, `quit` and `rotate`."""

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from proxy.config import Address
from proxy.ops.admin import SERVER

CALL_SECONDS = 5.0
POLL_SECONDS = 0.1
OK, FAILED = 0, 1


class UnreachableError(Exception):
    """No mobula-proxy answers on that admin address; the text names it."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: dict[str, Any]


async def _call(
    address: Address, method: str, path: str, *, seconds: float = CALL_SECONDS
) -> _Answer:
    connector = aiohttp.UnixConnector(address.path) if address.path else aiohttp.TCPConnector()
    host = "localhost" if address.path else _reachable(address)
    timeout = aiohttp.ClientTimeout(total=seconds)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, f"http://{host}{path}", allow_redirects=False) as response,
        ):
            if not response.headers.get("Server", "").startswith(SERVER):
                raise UnreachableError(f"what answers on {address} is not a proxy's admin listener")
            return _Answer(response.status, json.loads(await response.text()))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise UnreachableError(f"no proxy answers on admin address {address}") from error


def _reachable(address: Address) -> Address:
    """An address that is bound on every interface is called on loopback."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - not bound here
    return Address(anywhere.get(address.host, address.host), address.port)


async def read_status(address: Address) -> dict[str, Any]:
    """Return what `/status` tells. Raises UnreachableError."""
    return (await _call(address, "GET", "/status")).body


async def show_status(address: Address, *, as_json: bool) -> int:
    """Print how the proxy is; return 1 if it is not ready or not there."""
    try:
        body = await read_status(address)
    except UnreachableError as error:
        return complain(str(error))
    text = json.dumps(body, indent=2) if as_json else _describe(body)
    sys.stdout.write(text + "\n")
    return OK if body.get("ready") else FAILED


def _describe(body: dict[str, Any]) -> str:
    tokens = body["tokens"]
    ready = "ready" if body["ready"] else f"not ready: {body['reason']}"
    lines = [
        f"mobula-proxy {body['version']}, {ready}, up {body['uptime']:.0f} s",
        *(f"listener  {each}" for each in body["listeners"]),
        f"requests  {body['active']} in flight, {tokens['rate']:.1f} a second lately",
        f"budget    {tokens['permits']} of 5 creation calls left this minute",
        f"store     {_describe_store(body['store'])}",
    ]
    lines += [
        f"token     {each['id']}  {each['state']:<9}  {each['left']} of {each['limit']} left, "
        + (f"{each['free']} more in the store, " if each["free"] else "")
        + f"expires in {each['expires_in']:.0f} s"
        for each in tokens["tokens"]
    ]
    return "\n".join(lines)


def _describe_store(store: dict[str, Any]) -> str:
    if store["reach"] == "joined":
        return f"{store['place']}, {store['sharers']} sharing it, {store['rate']:.1f} a second"
    meanwhile = {"local": "may mint for itself meanwhile", "cut": "spends what is in hand"}
    return f"{store['place']} not reached for {store['seconds']:.0f} s; {meanwhile[store['reach']]}"


async def wait_ready(address: Address, seconds: float) -> int:
    """Return 0 once the proxy is ready, 1 if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    why = ""
    while True:
        try:
            left = max(POLL_SECONDS, deadline - time.monotonic())
            answer = await _call(address, "GET", "/readyz", seconds=min(CALL_SECONDS, left))
        except UnreachableError as error:
            why = str(error)
        else:
            if answer.status == 200:
                return OK
            why = f"not ready: {answer.body.get('reason')}"
        if time.monotonic() >= deadline:
            return complain(f"{why} (waited {seconds:g} s)")
        await asyncio.sleep(POLL_SECONDS)


async def ask_quit(address: Address) -> int:
    """Ask the proxy to drain and end; return once it has agreed."""
    return await _ask(address, "/quitquitquit")


async def ask_rotate(address: Address) -> int:
    """Ask the proxy to replace every token; return once it has agreed."""
    return await _ask(address, "/rotate")


async def _ask(address: Address, path: str) -> int:
    try:
        answer = await _call(address, "POST", path)
    except UnreachableError as error:
        return complain(str(error))
    return OK if answer.status == 202 else complain(str(answer.body.get("detail")))


def complain(text: str) -> int:
    """Say on standard error what went wrong; return the exit code for it."""
    sys.stderr.write(f"mobula-proxy: {text}\n")
    return FAILED
