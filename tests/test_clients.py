"""Clients that people use, unchanged but for the base URL, in front of the installed command."""

import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from websockets.sync.client import connect

from harness import (
    KEY,
    SecretScan,
    command,
    command_line,
    installed_sandbox,
    program,
    served_url,
)

QUIET = logging.getLogger("quiet")
QUIET.disabled = True

MARKET = "/api/1/market/data"
ECHO = "/api/1/sandbox/echo"
UPLOAD = "/api/1/sandbox/upload"

NODE = """
const [url, place, key] = process.argv.slice(2);
const headers = { authorization: { Authorization: key }, 'x-api-key': { 'x-api-key': key } };
const target = place === 'query' ? `${url}&api_key=${key}` : url;
const answer = await fetch(target, { headers: headers[place] ?? {} });
console.log(JSON.stringify({ status: answer.status, body: await answer.json() }));
"""

NODE_FEED = """
const [url, key] = process.argv.slice(2);
const socket = new WebSocket(url);
const trades = [];
const subscription = { type: 'market', authorization: key, payload: { subscriptionId: 'mine' } };
socket.onopen = () => socket.send(JSON.stringify(subscription));
socket.onmessage = (event) => {
  trades.push(JSON.parse(event.data));
  if (trades.length === 3) socket.close(1000, 'enough');
};
socket.onclose = (event) => {
  console.log(JSON.stringify({ code: event.code, clean: event.wasClean, trades }));
};
"""


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any


Client = Callable[[str, str], Reply]


def headers_of(place: str) -> dict[str, str]:
    """How an app shows its key in a header; none when it stands in the query."""
    return {"authorization": {"Authorization": KEY}, "x-api-key": {"x-api-key": KEY}}.get(place, {})


def query_of(place: str) -> dict[str, str]:
    return {"api_key": KEY} if place == "query" else {}


@pytest.fixture(scope="module")
def scan() -> Iterator[SecretScan]:
    scan = SecretScan()
    yield scan
    assert not scan.leaks(), "a secret was logged or printed"


@pytest.fixture(scope="module")
def sandbox_url() -> Iterator[str]:
    with installed_sandbox() as sandbox:
        yield sandbox.url


@pytest.fixture(scope="module")
def url(sandbox_url: str, scan: SecretScan) -> Iterator[str]:
    """The installed proxy, in front of that sandbox."""
    environ = {"MOBULA_API_KEY": KEY}
    with command(*command_line(sandbox_url), scan=scan, environ=environ) as process:
        yield served_url(process.serving())


def _curl(url: str, place: str) -> Reply:
    headers = [part for item in headers_of(place).items() for part in ("-H", ": ".join(item))]
    query = [part for item in query_of(place).items() for part in ("-G", "-d", "=".join(item))]
    done = subprocess.run(
        [program("curl"), "-sS", "-w", "\n%{http_code}", *headers, *query, url],
        capture_output=True, check=True, text=True, timeout=20,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return Reply(int(status), json.loads(body))


def _requests(url: str, place: str) -> Reply:
    answer = requests.get(url, headers=headers_of(place), params=query_of(place), timeout=20)
    return Reply(answer.status_code, answer.json())


def _httpx(url: str, place: str) -> Reply:
    target = httpx.URL(url).copy_merge_params(query_of(place))
    answer = httpx.get(target, headers=headers_of(place), timeout=20)
    return Reply(answer.status_code, answer.json())


@pytest.fixture(params=["curl", "requests", "httpx", "node"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    script = tmp_path / "client.mjs"
    script.write_text(NODE)

    def _node(url: str, place: str) -> Reply:
        done = subprocess.run(
            [program("node"), str(script), url, place, KEY],
            capture_output=True, check=True, text=True, timeout=20,
        )  # fmt: skip
        return Reply(**json.loads(done.stdout))

    clients = {"curl": _curl, "requests": _requests, "httpx": _httpx, "node": _node}
    return clients[request.param]


@pytest.mark.parametrize("place", ["authorization", "x-api-key", "query"])
def test_a_client_gets_real_data_whichever_way_it_shows_its_key(
    client: Client, url: str, place: str
) -> None:
    reply = client(f"{url}{MARKET}?asset=Ethereum", place)
    assert reply.status == 200
    assert (reply.body["data"]["symbol"], reply.body["data"]["price"] > 0) == ("ETH", True)


@pytest.mark.parametrize("place", ["authorization", "query"])
def test_what_arrives_is_the_clients_request_with_a_token_in_place_of_its_key(
    client: Client, url: str, place: str
) -> None:
    reply = client(f"{url}{ECHO}?asset=a%2Fb%2Cc", place)
    assert reply.body["target"] == f"{ECHO}?asset=a%2Fb%2Cc"
    credentials = [value for name, value in reply.body["headers"] if name == "Authorization"]
    assert credentials == ["Bearer [token]"]
    assert "[static key]" not in json.dumps(reply.body)


@pytest.mark.parametrize("place", ["authorization", "x-api-key", "query"])
def test_no_client_reaches_the_token_endpoints(client: Client, url: str, place: str) -> None:
    reply = client(f"{url}/api/2/auth/tokens?x=1", place)
    assert (reply.status, reply.body["code"]) == (403, "auth_path_denied")


def test_a_curl_upload_that_expects_100_continue_arrives_whole(url: str, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(bytes(range(256)) * 8192)
    done = subprocess.run(
        [program("curl"), "-sS", "-H", f"Authorization: {KEY}", "-H", "Expect: 100-continue",
         "--data-binary", f"@{file}", url + UPLOAD],
        capture_output=True, check=True, timeout=20,
    )  # fmt: skip
    assert json.loads(done.stdout)["bytes"] == 256 * 8192


def test_sessions_that_keep_their_connections_are_served_again_and_again(url: str) -> None:
    with requests.Session() as session:
        session.headers["Authorization"] = KEY
        assert {session.get(url + MARKET, timeout=20).status_code for _ in range(20)} == {200}
    with httpx.Client(headers={"x-api-key": KEY}) as client:
        assert {client.get(url + MARKET).status_code for _ in range(20)} == {200}


def test_a_stream_comes_as_it_is_made(url: str) -> None:
    with httpx.stream("GET", f"{url}/api/1/sandbox/stream?events=3&interval=0.01") as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("event:")]
    assert lines == ["event: trade"] * 3


# WebSockets


def feed_of(url: str) -> str:
    return url.replace("http://", "ws://") + "/"


def test_a_feed_comes_for_a_subscription_that_shows_the_key(url: str) -> None:
    """The client offers compression, and does without it."""
    with connect(feed_of(url), open_timeout=20, close_timeout=20, logger=QUIET) as socket:
        subscription = {"type": "market", "authorization": KEY, "payload": {"subscriptionId": "x"}}
        socket.send(json.dumps(subscription))
        trades = [json.loads(socket.recv(timeout=20)) for _ in range(3)]
        socket.ping().wait(20)
    assert {trade["subscriptionId"] for trade in trades} == {"x"}
    assert trades[0]["data"]["pair"] == "ETH/USDC"
    assert (socket.close_code, socket.protocol.extensions) == (1000, [])


def test_a_feed_comes_for_node_as_for_a_browser(url: str, tmp_path: Path) -> None:
    script = tmp_path / "feed.mjs"
    script.write_text(NODE_FEED)
    done = subprocess.run(
        [program("node"), "--experimental-websocket", str(script), feed_of(url), KEY],
        capture_output=True, check=True, text=True, timeout=20,
    )  # fmt: skip
    closed = json.loads(done.stdout)
    assert (closed["code"], closed["clean"]) == (1000, True)
    assert [trade["subscriptionId"] for trade in closed["trades"]] == ["mine"] * 3
