"""What clients get when an upstream fails: the tests find `docs/fault-matrix.md` out.

Each cell is a proxy and an upstream of its own, so that all cells of a row can run at once.
"""

import asyncio
import contextlib
import datetime as dt
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
import trustme

from faults.kinds import GET, KINDS, REPLAY_BYTES, Kind
from faults.phases import PHASES, Phase
from faults.upstream import Upstream
from harness import SecretScan, mobula, until, until_ready
from proxy.app import App
from proxy.tokens.model import Outcome
from proxy.traffic.upstream import UpstreamSnapshot
from table import Table
from wire import Far, Wire, between, client, fields_of, problem_of, served

TABLE = Table(
    "fault-matrix.md",
    ["The upstream", *(kind.name for kind in KINDS)],
    [phase.name for phase in PHASES],
)


@dataclass(frozen=True)
class Certificates:
    ca_file: str
    contexts: dict[str, ssl.SSLContext]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    ca, unknown = trustme.CA(), trustme.CA()
    path: Path = tmp_path_factory.mktemp("tls") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    shown = {
        "good": ca.issue_cert("127.0.0.1"),
        "expired": ca.issue_cert("127.0.0.1", not_after=yesterday),
        "of another name": ca.issue_cert("127.0.0.2"),
        "unknown": unknown.issue_cert("127.0.0.1"),
    }
    return Certificates(str(path), {name: _context(leaf) for name, leaf in shown.items()})


def _context(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


# What a client sees


@dataclass(frozen=True)
class Seen:
    """What a client got: `code` is that of an error of our own, `whole` whether all has come."""

    status: int
    code: str
    body: bytes
    whole: bool

    def __str__(self) -> str:
        if self.code:
            return f"{self.status} {self.code}"
        return f"{self.status}" if self.whole else f"{self.status}, broken off"


async def ask(app: App, kind: Kind, upload: int = 1) -> Seen:
    """Send a request on a connection of its own, and read until that ends."""
    async with client(app) as near, asyncio.TaskGroup() as group:
        sending = group.create_task(_send(near, kind.pieces(upload)))
        data, orderly = await near.everything()
        sending.cancel()
    head, end, rest = data.partition(b"\r\n\r\n")
    assert end, "a client got no answer at all"
    status, code = int(head.split()[1]), fields_of(head).get("x-mobula-proxy-error", "")
    if kind.method == "HEAD":
        assert not rest, "an answer to HEAD has a body"
        return Seen(status, code, b"", whole=True)
    body, whole = unframed(head, rest)
    assert orderly or not whole, "a whole answer ended with a reset"
    assert not code or problem_of(head, body)["status"] == status
    return Seen(status, code, body, whole)


async def _send(near: Wire, pieces: list[bytes]) -> None:
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            near.send(piece)
            await near.drained()
            await asyncio.sleep(0)


def unframed(head: bytes, rest: bytes) -> tuple[bytes, bool]:
    """Return the body behind a head, and whether it is whole."""
    fields = fields_of(head)
    if "transfer-encoding" not in fields:
        return rest, len(rest) == int(fields.get("content-length", -1))
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        try:
            length = int(size, 16)
        except ValueError:
            return body, False
        if length == 0:
            return body, rest == b"\r\n"
        body += rest[:length]
        rest = rest[length + 2 :]


# What it costs


@dataclass(frozen=True)
class Books:
    """The proxy's books of a moment: leases by outcome, and what is left by token."""

    settled: Counter[str]
    left: Counter[str]

    @classmethod
    def of(cls, app: App) -> "Books":
        tokens = app.status().tokens
        return cls(Counter(tokens.settled), Counter({each.id: each.left for each in tokens.tokens}))

    def since(self, before: "Books") -> "Books":
        """What was settled, and what was charged to each token."""
        return Books(self.settled - before.settled, before.left - self.left)


def pool(app: App) -> UpstreamSnapshot:
    return next(each for each in app.status().upstreams if each.name == "far.test")


def at_rest(app: App) -> bool:
    """Tell whether no request, lease or connection is under way any more."""
    status, conns = app.status(), pool(app)
    return not (
        status.active or status.tokens.leases or conns.busy or conns.dialing or conns.waiting
    )


# What holds whatever fails


def check_answer(kind: Kind, seen: Seen, upstream: Upstream) -> None:
    if seen.status != 200:
        assert seen.code
        assert seen.whole
    elif seen.whole:
        assert seen.body == kind.answer.body, "an answer looks whole and is not"
    else:
        head, _, rest = upstream.said.partition(b"\r\n\r\n")
        assert seen.body == unframed(head, rest)[0], "not all that had come was passed on"


def check_copies(kind: Kind, upstream: Upstream) -> None:
    assert len(upstream.copies) <= (2 if kind.may_repeat else 1), "a request went up too often"


def check_costs(cost: Books, upstream: Upstream) -> None:
    counted = cost.settled.total() - cost.settled[Outcome.NOT_SENT.value]
    assert counted == cost.left.total(), "leases were not settled exactly once"
    sent = Counter(_token_id(copy.token) for copy in upstream.copies)
    assert sent <= cost.left, "a token was sent more often than it was charged for"


def _token_id(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["jti"])


def check_pool(kind: Kind, app: App, upstream: Upstream) -> None:
    if upstream.said != kind.answer.whole:
        assert pool(app).idle == 0, "a connection that failed is to be used again"


# The cells


@contextlib.asynccontextmanager
async def meeting(
    phase: Phase, kind: Kind, certificates: Certificates, scan: SecretScan, *, reused: bool
) -> AsyncIterator[tuple[App, Upstream]]:
    """A proxy that is ready, and an upstream that is in order as yet."""
    async with mobula(scan) as sandbox, Far() as far:
        upstream = Upstream(far, phase, kind.answer, certificates.contexts, reused=reused)
        await upstream.heal()
        settings = dict(phase.settings)
        if phase.secure:
            settings |= {"url": f"https://{far.authority}", "ca_file": certificates.ca_file}
        limits = {"replay_bytes": REPLAY_BYTES}
        async with (
            served(far, upstream.serve),
            between(far, sandbox, scan, upstream=settings, limits=limits) as app,
        ):
            await until_ready(app)
            try:
                yield app, upstream
            except Exception as error:
                error.add_note(f"{kind.name} on a {'reused' if reused else 'fresh'} connection")
                raise


async def cell(
    phase: Phase, kind: Kind, certificates: Certificates, scan: SecretScan, *, reused: bool
) -> str:
    """Let a request meet with the phase, on a fresh or a reused connection; say how it went."""
    async with meeting(phase, kind, certificates, scan, reused=reused) as (app, upstream):
        if reused:
            await assert_served(app)
        before = Books.of(app)
        await upstream.fail()
        seen = await ask(app, kind, phase.upload)
        await until(lambda: at_rest(app))
        cost = Books.of(app).since(before)
        check_answer(kind, seen, upstream)
        check_copies(kind, upstream)
        check_costs(cost, upstream)
        check_pool(kind, app, upstream)
        await upstream.heal()
        await assert_served(app)
    return f"{seen} · {_copies(upstream)} · {_leases(cost)}"


async def assert_served(app: App) -> None:
    seen = await ask(app, GET)
    assert (seen.status, seen.body, seen.whole) == (200, b"ok", True)
    await until(lambda: at_rest(app))


def _copies(upstream: Upstream) -> str:
    count = len(upstream.copies)
    cut = sum(not copy.whole for copy in upstream.copies)
    part = f", {cut} in part" if cut < count else " in part"
    return f"{count} {'copy' if count == 1 else 'copies'}{part if cut else ''}"


def _leases(cost: Books) -> str:
    counts = [(outcome.value, cost.settled[outcome.value]) for outcome in reversed(Outcome)]
    words = [name if count == 1 else f"{count} {name}" for name, count in counts if count]
    return ", ".join(words) or "no lease"


async def row(phase: Phase, certificates: Certificates, scan: SecretScan) -> list[str]:
    """Return the cells of a phase, which say of a reused connection only what differs."""

    async def both(kind: Kind) -> str:
        fresh, reused = [
            group.create_task(cell(phase, kind, certificates, scan, reused=reused))
            for reused in (False, True)
        ]
        once, again = await fresh, await reused
        return once if once == again else f"{once}<br>reused: {again}"

    async with asyncio.TaskGroup() as group:
        cells = [group.create_task(both(kind)) for kind in KINDS]
    return [cell.result() for cell in cells]


@pytest.mark.parametrize("phase", PHASES, ids=str)
async def test_upstream_that(phase: Phase, certificates: Certificates, scan: SecretScan) -> None:
    TABLE.check(phase.name, *await row(phase, certificates, scan))


def test_every_phase_has_its_row() -> None:
    TABLE.check_names()
