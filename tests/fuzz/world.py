"""A whole proxy in one loop, with clients on this side of it and an upstream on the other.

The proxy is an `App` as it is served, with tokens from a sandbox. Nothing of it is replaced; what
is not real is the time and the network (see `network`). It serves input after input, and after each
`World.settle` looks whether anything was left behind.
"""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from fuzz.messages import Answer, read_answers
from fuzz.network import Loop
from fuzz.peers import Peer, Tamper, Upstream, bystanders_request, quiet, waited_for
from harness import KEY, SecretScan, running
from proxy.sandbox import Sandbox

EPOCH = 1_700_000_000.0
FORGET_SECONDS = 10.0
"""How long the proxy may remember of one input what it learned of a token."""
MINT_SECONDS = 120.0
"""How long it may take until the mint budget is as full as before tokens were revoked."""

NARROW, WIDE = 0, 1
"""The listeners: one whose upstream has a single connection, and one with many."""

HEAD_BYTES = 2048
"""What a head may have at the most, of a request and of an answer."""

MESSAGE_BYTES = 1024
"""What a WebSocket message may have at the most."""
REPLAY_BYTES = 256
"""What is held of a request's body; one that is longer goes up as it comes."""

_NAMES = ("narrow.test", "wide.test")
_LIMITS = {
    "header_bytes": HEAD_BYTES,
    "header_count": 32,
    "target_bytes": 512,
    "replay_bytes": REPLAY_BYTES,
    "client_idle_timeout": "5s",
    "header_timeout": "3s",
    "body_timeout": "2s",
    "body_bytes": "256KiB",
    "message_bytes": MESSAGE_BYTES,
    "message_timeout": "10s",
}
_UPSTREAM = {
    "head_bytes": HEAD_BYTES,
    "head_timeout": "4s",
    "idle_timeout": "2s",
    "queue_timeout": "5m",
}

Result = TypeVar("Result")


def _untampered(data: bytes) -> bytes:
    return data


class World:
    """One proxy and all around it, from `with` to its end. After a failed check it is of no use."""

    def __init__(
        self, *, to_client: Tamper = _untampered, to_upstream: Tamper = _untampered
    ) -> None:
        """`to_client` and `to_upstream` make the proxy one that fails, for tests."""
        self.loop = Loop()
        self.upstream = Upstream(to_upstream)
        self._to_client = to_client
        self._scan = SecretScan()
        self._complaints: list[str] = []
        self._open = asyncio.Event()
        self._closing = asyncio.Event()
        self._revoked = False

    def __enter__(self) -> Self:
        self.loop.set_exception_handler(lambda _, context: self._complaints.append(str(context)))
        self._host = self.loop.create_task(self._serve())
        self.loop.run_until_complete(self._opened())
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.loop.run_until_complete(self._host)
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(work)

    async def _opened(self) -> None:
        open_ = asyncio.create_task(self._open.wait())
        await asyncio.wait({open_, self._host}, return_when=asyncio.FIRST_COMPLETED)
        if self._host.done():
            self._host.result()

    async def _serve(self) -> None:
        server = await self.loop.create_server(self.upstream.connection, "127.0.0.1", 0)
        self.authority = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Sandbox(keys={KEY: "growth"}, clock=lambda: EPOCH + self.loop.time()) as sandbox:
            self._scan.watch(sandbox)
            self._sandbox = sandbox
            sections = _sections(sandbox.url, self.authority)
            async with running(sandbox.url, self._scan, clock=self.loop.time, **sections) as app:
                self._app = app
                await quiet()
                self._tasks = asyncio.all_tasks()
                self._open.set()
                await self._closing.wait()
        server.close()

    def revoke_all(self) -> list[bytes]:
        """Have all tokens revoked, and return what requests show that still carry one."""
        self._sandbox.ledger.revoke_all()
        self._revoked = True
        return self.credentials()

    def tokens(self) -> list[str]:
        """Return the tokens that were minted."""
        return self._sandbox.ledger.secrets()

    def credentials(self) -> list[bytes]:
        """Return what a request may show: one of the tokens."""
        return [b"Bearer " + token.encode() for token in self.tokens()]

    async def connect(self, listener: int) -> Peer:
        """Connect a client."""
        port = self._app.addresses[listener].port
        peer: Peer
        _, peer = await self.loop.dial(port, lambda: Peer(self._to_client))
        return peer

    async def settle(self) -> None:
        """Check that nothing is left of an input whose clients are gone, and forget it."""
        self.upstream.forget()
        if self._revoked:
            self._app.rotate()
            await quiet(MINT_SECONDS)
            self._revoked = False
        await quiet(FORGET_SECONDS)
        assert not self._complaints, self._complaints
        log = self._scan.output.getvalue()
        assert '"level": "error"' not in log, log
        assert not self._scan.leaks(), "a secret was logged"
        self._scan.output.seek(0)
        self._scan.output.truncate()
        status = self._app.status()
        assert status.tokens.leases == 0, f"{status.tokens.leases} leases are not settled"
        assert status.active == 0, f"{status.active} requests are still being served"
        for each in status.upstreams:
            assert each.busy == each.dialing == each.waiting == each.idle == 0, each
        left = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"


def _sections(mints: str, authority: str) -> dict[str, Any]:
    upstream = _UPSTREAM | {"url": f"http://{authority}"}
    return {
        "upstreams": {
            "mint.test": {"url": mints},
            _NAMES[NARROW]: upstream | {"connections": 1},
            _NAMES[WIDE]: upstream | {"connections": 64},
        },
        "listeners": [{"bind": "127.0.0.1:0", "upstream": name} for name in _NAMES],
        "limits": _LIMITS,
        "token": {"expires_in": "2h", "request_limit": 1_000_000},
    }


class Bystander:
    """A well-behaved client beside the fuzzed one: its answers are its own, and whole."""

    def __init__(self, world: World, listener: int) -> None:
        self._world = world
        self._listener = listener
        self._peers: list[Peer] = []

    async def ask(self) -> None:
        """Send a request on a new connection, unless the last one is not answered yet."""
        if all(self._answer(peer) for peer in self._peers[-1:]):
            peer = await self._world.connect(self._listener)
            self._peers.append(peer)
            peer.send(bystanders_request(self._path(len(self._peers))))
            await quiet()

    async def check(self) -> None:
        """Wait for the last answer, look at them all, and leave."""
        last = self._peers[-1]
        await waited_for(lambda: last.lost or self._answer(last) is not None)
        for number, peer in enumerate(self._peers, 1):
            answer = self._answer(peer)
            own = answer is not None and answer.body.endswith(b" GET " + self._path(number))
            assert own, f"the bystander got {bytes(peer.received)!r}"
            peer.transport.close()

    def _path(self, number: int) -> bytes:
        return b"/bystander/%d" % number

    def _answer(self, peer: Peer) -> Answer | None:
        """Return the answer on a connection once it is whole and nothing stands behind it."""
        answers = read_answers(bytes(peer.received), [], ended=False)
        return answers.messages[0] if answers.ends == [len(peer.received)] else None


def is_refusal(answer: Answer) -> bool:
    """Tell whether an answer is the proxy's own; it is then a sound problem document."""
    code = answer.value(b"x-mobula-proxy-error")
    if code is None:
        return False
    assert code != b"internal_error", answer
    if answer.complete and answer.body:
        assert json.loads(answer.body)["code"] == code.decode(), answer
    return True
