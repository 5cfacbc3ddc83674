"""The script that every Node loads first: real Nodes, and a server on each of its sockets."""

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from harness import program

PRELOAD = Path(__file__).parents[2] / "proxy" / "launch" / "preload.cjs"
NAME = "api.mobula.test"
"""No resolver knows it, so whatever arrives for it has been led here."""
PATIENCE = 20.0

WORDS = """
const show = (text) => console.log(`${text}`);
const read = (answer) => answer.on('data', show);
const ask = (socket) => read(socket).write('GET /x HTTP/1.1\\r\\nHost: NAME\\r\\n\\r\\n');
"""
HTTPS = {
    "https": "require('https').get('https://NAME/x', read);",
    "https with an agent of its own": """
        const https = require('https');
        https.get('https://NAME/x', { agent: new https.Agent({ keepAlive: true }) }, read);""",
    "https with a name in capitals": "require('https').get('https://API.Mobula.Test/x', read);",
    "fetch": "fetch('https://NAME/x').then((answer) => answer.text()).then(show);",
    "https as the package ws has it": """
        const tls = require('tls');
        const createConnection = (options) => tls.connect({ ...options, path: undefined });
        const options = { host: 'NAME', port: 443, defaultPort: 443, createConnection };
        require('https').get({ ...options, path: '/x' }, read);""",
    "tls with a port and a host": "ask(require('tls').connect(443, 'NAME'));",
    "tls with a callback": """
        const socket = require('tls').connect({ port: '443', host: 'NAME' }, () => ask(socket));""",
    "tls upon a connection of net": """
        const socket = require('net').connect(443, 'NAME', () => {
            ask(require('tls').connect({ socket, servername: 'NAME' }));
        });""",
}
MODULES = {
    "tls": "import { connect } from 'node:tls'; ask(connect(443, 'NAME'));",
    "https": "import https from 'node:https'; https.get('https://NAME/x', read);",
    "a worker": """
        import { Worker } from 'node:worker_threads';
        const script = "require('https').get('https://NAME/x', (it) => it.pipe(process.stdout))";
        new Worker(script, { eval: true, execArgv: [] });""",
}
HTTP = {
    "http": "require('http').get('http://NAME/x', read);",
    "fetch": "fetch('http://NAME/x').then((answer) => answer.text()).then(show);",
    "net": "ask(require('net').connect({ port: 80, host: 'NAME' }));",
}


class Servers:
    """One on a socket of each kind; they answer with what they were asked, and close."""

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.pem"
        self.tls, self.plain = folder / "tls.sock", folder / "plain.sock"
        self._names: dict[object, str | None] = {}
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        authority.cert_pem.write_to_path(str(self.ca_file))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.sni_callback = self._note
        authority.issue_cert(NAME, "localhost", "127.0.0.1").configure_cert(self._context)

    def _note(self, tls: object, name: str | None, _: ssl.SSLContext) -> None:
        self._names[tls] = name

    async def start(self) -> None:
        self._servers = [
            await asyncio.start_unix_server(self._way("tls"), self.tls, ssl=self._context),
            await asyncio.start_unix_server(self._way("plain"), self.plain),
            await asyncio.start_server(self._way("port"), "127.0.0.1", 0, ssl=self._context),
        ]
        self.port = self._servers[2].sockets[0].getsockname()[1]

    def stop(self) -> None:
        for server in self._servers:
            server.close()

    def _way(self, way: str) -> Callable[..., Awaitable[None]]:
        return partial(self._answer, way)

    async def _answer(
        self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        first, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        host = next(each for each in fields if each.lower().startswith("host:"))
        seen = {
            "way": way,
            "target": first.split(" ")[1],
            "host": host.partition(" ")[2],
            "server name": self._names.get(writer.get_extra_info("ssl_object")),
        }
        body = json.dumps(seen)
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    servers = Servers(tmp_path)
    await servers.start()
    yield servers
    servers.stop()


async def node(
    script: str, servers: Servers, *flags: str, sockets: Mapping[str, Path] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script as the child of an exec would be."""
    sockets = sockets or {f"{NAME}:443": servers.tls, f"{NAME}:80": servers.plain}
    environ = {
        "NODE_OPTIONS": f"--require {PRELOAD}",
        "NODE_EXTRA_CA_CERTS": str(servers.ca_file),
        "MOBULA_PROXY_SOCKETS": json.dumps(sockets, default=str),
    }
    return await asyncio.to_thread(
        subprocess.run,
        [program("node"), *flags, "--eval", (WORDS + script).replace("NAME", NAME)],
        env=environ, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


def arrived(done: subprocess.CompletedProcess[str]) -> Any:
    """Return what the server saw; nothing went wrong."""
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", HTTPS.values(), ids=HTTPS)
async def test_what_goes_to_port_443_of_a_name_comes_to_the_tls_socket(
    servers: Servers, script: str
) -> None:
    done = await node(script, servers)
    assert arrived(done) == {"way": "tls", "target": "/x", "host": NAME, "server name": NAME}


@pytest.mark.parametrize("script", MODULES.values(), ids=MODULES)
async def test_modules_and_workers_have_it_too(servers: Servers, script: str) -> None:
    done = await node(script, servers, "--input-type=module")
    assert arrived(done) == {"way": "tls", "target": "/x", "host": NAME, "server name": NAME}


@pytest.mark.parametrize("script", HTTP.values(), ids=HTTP)
async def test_what_goes_to_port_80_of_a_name_comes_to_the_plain_socket(
    servers: Servers, script: str
) -> None:
    done = await node(script, servers)
    assert arrived(done) == {"way": "plain", "target": "/x", "host": NAME, "server name": None}


OTHERS = {
    "another host": "require('https').get('https://127.0.0.1:PORT/x', read);",
    "another port": "require('https').get('https://localhost:PORT/x', read);",
    "tls upon a connection of net": """
        const socket = require('net').connect(PORT, '127.0.0.1', () => {
            ask(require('tls').connect({ socket, host: 'localhost', port: 443 }));
        });""",
}


@pytest.mark.parametrize("script", OTHERS.values(), ids=OTHERS)
async def test_what_goes_elsewhere_comes_there(servers: Servers, script: str) -> None:
    sockets = {"localhost:443": servers.tls, "localhost:80": servers.plain}
    done = await node(script.replace("PORT", str(servers.port)), servers, sockets=sockets)
    assert arrived(done)["way"] == "port"


async def test_a_unix_socket_that_an_app_names_itself_is_used(servers: Servers) -> None:
    script = f"require('http').get({{ host: 'NAME', socketPath: '{servers.plain}' }}, read);"
    done = await node(script, servers, sockets={f"{NAME}:80": servers.tls})
    assert arrived(done)["way"] == "plain"


async def test_without_the_proxy_a_connection_fails_and_goes_nowhere_else(
    servers: Servers, tmp_path: Path
) -> None:
    address = f"localhost:{servers.port}"
    script = f"require('https').get('https://{address}').on('error', (it) => show(it.code));"
    done = await node(script, servers, sockets={address: tmp_path / "gone.sock"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "ENOENT\n", "")


async def test_an_app_that_makes_no_connection_notices_nothing(servers: Servers) -> None:
    done = await node("show(Object.keys(require.cache));", servers)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{PRELOAD}\n", "")
