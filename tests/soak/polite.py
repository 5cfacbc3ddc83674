"""Clients that keep to the rules: each must get its own answer whole, whatever else goes on.

The answer tells whose it is: by the marker in the request, by the digest of what was sent, or by a
pattern of known length.
"""

import gzip
import hashlib
import json

from soak.client import BROKEN_OFF, NOTHING, Answer, Client
from soak.crowd import ECHO, FIELDS, LARGE, STREAM, UPLOAD, Crowd, Kind, now, request
from soak.rogue import DEEDS, UPLOAD_DEEDS

PATTERN = bytes(range(251)) * 40_000
"""What the sandbox's large answers begin with."""
PIECE = 64 * 1024
EVENTS = 6
AWAY = ("502 upstream_closed", "502 upstream_unreachable", BROKEN_OFF)
"""What a client may see while an upstream is away."""


async def echo(crowd: Crowd, client: Client, **form: str) -> None:
    """Send a request of any method, and check that the answer tells of this very one."""
    method = crowd.rng.choice(("GET", "GET", "HEAD", "POST", "PUT", "DELETE"))
    body = crowd.rng.randbytes(crowd.rng.randrange(3000)) if method in ("POST", "PUT") else b""
    target = f"{ECHO}?{crowd.marker()}"
    answer = await client.ask(request(method, target, body=body, **form))
    crowd.judge(answer, "200")
    if method != "HEAD":
        told = json.loads(answer.body)
        assert (told["method"], told["target"]) == (method, target)
        assert told["body_length"] == len(body)


async def keeps_alive(crowd: Crowd) -> None:
    async with crowd.client() as client:
        for _ in range(crowd.rng.randint(3, 12)):
            await echo(crowd, client)
            await crowd.pause(0.3)


async def comes_once(crowd: Crowd) -> None:
    async with crowd.client() as client:
        await echo(crowd, client, fields="Connection: close\r\n")
        assert await client.wire.rest() == b""


async def speaks_http_1_0(crowd: Crowd) -> None:
    async with crowd.client() as client:
        await echo(crowd, client, version="HTTP/1.0")
        assert await client.wire.rest() == b""


async def pipelines(crowd: Crowd) -> None:
    async with crowd.client() as client:
        targets = [f"{ECHO}?{crowd.marker()}" for _ in range(crowd.rng.randint(2, 6))]
        client.wire.send(b"".join(request("GET", target) for target in targets))
        for target in targets:
            answer = await client.answer()
            crowd.judge(answer, "200")
            assert json.loads(answer.body)["target"] == target


async def follows_events(crowd: Crowd) -> None:
    version = crowd.rng.choice(("HTTP/1.0", "HTTP/1.1"))
    async with crowd.client() as client:
        target = f"{STREAM}?events={EVENTS}&interval=0.2"
        answer = await client.ask(request("GET", target, version=version))
        crowd.judge(answer, "200")
        assert answer.body.count(b"\n\n") == EVENTS


async def downloads(crowd: Crowd) -> None:
    async with crowd.client() as client:
        for size in crowd.rng.sample((0, 1, 1000, 70_000, 300_000, 1_000_000), 3):
            answer = await client.ask(request("GET", f"{LARGE}?bytes={size}"))
            crowd.judge(answer, "200")
            assert answer.body == PATTERN[:size]


async def reads_slowly(crowd: Crowd) -> None:
    async with crowd.client() as client:
        client.wire.send(request("GET", f"{LARGE}?bytes={len(PATTERN)}"))
        assert (await client.wire.head()).startswith(b"HTTP/1.1 200 OK\r\n")
        for start in range(0, len(PATTERN), PIECE):
            piece = PATTERN[start : start + PIECE]
            assert await client.wire.exactly(len(piece)) == piece
            await crowd.pause(0.03)


async def waits_to_be_asked(crowd: Crowd) -> None:
    async with crowd.client() as client:
        body = crowd.rng.randbytes(crowd.rng.randint(1, 60_000))
        whole = request("PUT", UPLOAD, body=body, fields="Expect: 100-continue\r\n")
        client.wire.send(whole.removesuffix(body))
        assert await client.wire.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.wire.send(body)
        check_upload(crowd, await client.answer(), body)


async def uploads(crowd: Crowd) -> None:
    """These bodies are too large to be kept, so they are not sent again with another token."""
    began = now()
    body = crowd.rng.randbytes(crowd.rng.choice((70_000, 300_000, 1_000_000)))
    chunked = crowd.rng.random() < 0.5
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    method = crowd.rng.choice(("POST", "PUT"))
    async with crowd.client() as client:
        client.wire.send(f"{method} {UPLOAD} HTTP/1.1\r\n{FIELDS}{framing}\r\n\r\n".encode())
        await send_body(crowd, client, body, chunked=chunked)
        answer = await client.answer()
    if crowd.struck("revoked", began) and answer.seen != "200":
        crowd.judge(answer, "401", BROKEN_OFF, NOTHING)
    else:
        check_upload(crowd, answer, body)


async def send_body(crowd: Crowd, client: Client, body: bytes, *, chunked: bool) -> None:
    """Send a body in pieces, until the other side takes no more of it."""
    try:
        for start in range(0, len(body), PIECE):
            piece = body[start : start + PIECE]
            client.wire.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await client.wire.drained()
            await crowd.pause(0.02)
        client.wire.send(b"0\r\n\r\n" if chunked else b"")
    except ConnectionError:
        pass  # the answer says why, if it can still be read


def check_upload(crowd: Crowd, answer: Answer, body: bytes) -> None:
    crowd.judge(answer, "200")
    digest = hashlib.sha256(body).hexdigest()
    assert json.loads(answer.body) == {"bytes": len(body), "sha256": digest}


async def meets_a_rogue(crowd: Crowd) -> None:
    """Ask for one deed after the other while the connection lasts."""
    async with crowd.client(crowd.doors.rogue) as client:
        for _ in range(4):
            deed, marker = crowd.draw("deeds", DEEDS), crowd.marker()
            answer = await client.ask(request("GET", f"/{deed}/{marker}"))
            judge_deed(crowd, answer, deed, marker, DEEDS[deed].seen)
            if not client.open:
                break


async def meets_a_rogue_with_a_body(crowd: Crowd) -> None:
    """Be refused, or lose the connection, in the midst of an upload."""
    async with crowd.client(crowd.doors.rogue) as client:
        deed, marker = crowd.draw("upload deeds", UPLOAD_DEEDS), crowd.marker()
        client.wire.send(request("POST", f"/{deed}/{marker}", body=bytes(300_000)))
        answer = await client.answer()
        judge_deed(crowd, answer, deed, marker, UPLOAD_DEEDS[deed].seen)


def judge_deed(crowd: Crowd, answer: Answer, deed: str, marker: str, seen: str) -> None:
    if marker.encode() not in crowd.rogue.raced:
        crowd.judge(answer, seen, to=deed)
        assert answer.seen != "200" or unzipped(answer) == marker.encode()


async def meets_the_wayward(crowd: Crowd) -> None:
    """This upstream is away at times; only then may a request fail."""
    async with crowd.client(crowd.doors.wayward) as client:
        for _ in range(4):
            began, marker = now(), crowd.marker()
            answer = await client.ask(request("GET", f"/answers/{marker}"))
            crowd.judge(answer, "200", *(AWAY if crowd.struck("away", began) else ()))
            assert answer.seen != "200" or answer.body == marker.encode()
            await crowd.pause(0.3)
            if not client.open:
                break


def unzipped(answer: Answer) -> bytes:
    packed = answer.fields.get("content-encoding") == "gzip"
    return gzip.decompress(answer.body) if packed else answer.body


POLITE = {
    "keeps alive": Kind(keeps_alive, 28),
    "comes once": Kind(comes_once, 10),
    "speaks HTTP/1.0": Kind(speaks_http_1_0, 4),
    "pipelines": Kind(pipelines, 6),
    "follows events": Kind(follows_events, 5),
    "downloads": Kind(downloads, 4),
    "reads slowly": Kind(reads_slowly, 1),
    "waits to be asked": Kind(waits_to_be_asked, 4),
    "uploads": Kind(uploads, 4),
    "meets a rogue": Kind(meets_a_rogue, 8),
    "meets a rogue with a body": Kind(meets_a_rogue_with_a_body, 2),
    "meets the wayward": Kind(meets_the_wayward, 5),
}
