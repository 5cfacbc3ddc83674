"""Both ends of TLS: handshakes in memory, for many of them, and a server on a socket."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from cryptography import x509

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def trusting(certificates: str) -> ssl.SSLContext:
    """A client that trusts these PEM certificates, and is as strict as clients come."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=certificates)
    return context


def shaken(
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    name: str,
    session: ssl.SSLSession | None = None,
) -> ssl.SSLObject:
    """Shake hands in memory, and return the client's end. Raises what either end does."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname=name, session=session)
    far = server.wrap_bio(up, down, server_side=True)
    for end in (near, far) * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    far.write(ANSWER)
    assert near.read() == ANSWER  # and what comes before it: a session's ticket
    for end in (near, far, near):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.unwrap()  # a session whose connection broke is not taken up again
    return near


def is_trusted(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bool:
    """Tell whether a client believes that the server is the one of that name."""
    try:
        shaken(server, client, name)
    except ssl.SSLCertVerificationError:
        return False
    return True


def certificate_of(end: ssl.SSLObject) -> x509.Certificate:
    """Return what the server showed."""
    shown = end.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Answer every request on a free port of 127.0.0.1; its number is given."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]
