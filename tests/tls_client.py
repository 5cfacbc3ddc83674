"""A client's part of TLS as bytes, for tests that say when each of them is sent."""

import contextlib
import ssl

from wire import Wire


class TlsClient:
    """Speaks TLS without a connection: what it has to say is taken from it, and sent by the test.

    It raises what a client raises, such as SSLCertVerificationError, and then has to say why.
    """

    def __init__(
        self, context: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None = None
    ) -> None:
        """A client that has been there before may take its `session` up again."""
        self._heard, self._said = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._heard, self._said, server_hostname=name, session=session)

    def __repr__(self) -> str:
        return f"<TlsClient {self._tls.version()}>"

    @property
    def to_say(self) -> bytes:
        """Take what it has to say."""
        return self._said.read()

    @property
    def is_resumed(self) -> bool | None:
        """Whether a session was taken up again."""
        return self._tls.session_reused

    def hello(self) -> bytes:
        """Begin the handshake; return its first message."""
        return self._go_on()

    async def finish(self, wire: Wire) -> bytes:
        """Go on with the handshake over a wire; return the client's last message, not sent yet."""
        said = b""
        while not said:
            self._heard.write(await wire.some())
            said = self._go_on()
        return said

    def say(self, data: bytes) -> bytes:
        """Return the bytes that say something to the server."""
        self._tls.write(data)
        return self._said.read()

    async def hear(self, wire: Wire) -> bytes:
        """Read from a wire until the server has said something; b"" is its orderly end."""
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                return self._tls.read()
            self._heard.write(await wire.some())

    def _go_on(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._said.read()
