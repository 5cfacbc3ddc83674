"""A DNS server on this machine, over UDP and TCP, that says what the test says (RFC 1035)."""

import asyncio
import struct
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Self

A, CNAME, AAAA = 1, 5, 28
NXDOMAIN, SERVFAIL, REFUSED = 3, 2, 5

_ANSWER = 0x8180
_TRUNCATED = 0x0200
_UDP_BYTES = 512
_PATIENCE = 5.0
"""Seconds that a question may take to come; no other module of the tests is loaded for it."""


class NameServer:
    """Knows the addresses of `names`, and the aliases that stand for other names.

    While it is `silent` it answers nothing, and never what is asked of the `unanswered` types;
    `fails` is the code of all its answers, and `rubbish` what it says instead of an answer.
    """

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, ...]] = {}
        self.aliases: dict[str, str] = {}
        self.silent = False
        self.unanswered: set[int] = set()
        self.fails = 0
        self.rubbish: bytes | None = None
        self.asked: list[tuple[str, int]] = []
        """Each name that was asked for, with the type of record."""
        self.asked_by_tcp = 0

    def __repr__(self) -> str:
        return f"<NameServer {self.place} {sorted(self.names)}>"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.place = "{}:{}".format(*self._tcp.sockets[0].getsockname())
        self._udp, _ = await loop.create_datagram_endpoint(
            lambda: _Udp(self), local_addr=self._tcp.sockets[0].getsockname()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._udp.close()
        self._tcp.close()
        await asyncio.sleep(0)

    def answer(self, question: bytes, most: int) -> bytes | None:
        """Return what is said to a question, in so many bytes at the most, or None."""
        name, kind, end = _read(question)
        self.asked.append((name, kind))
        if self.silent or self.rubbish is not None or kind in self.unanswered:
            return self.rubbish
        records = [] if self.fails else list(self._records(name, kind))
        known = name in self.names or name in self.aliases
        code = self.fails or (0 if known else NXDOMAIN)
        whole = _message(question[:2], code, question[12:end], records)
        if len(whole) <= most:
            return whole
        return _message(question[:2], _TRUNCATED, question[12:end], [])

    def _records(self, name: str, kind: int) -> Iterable[bytes]:
        if name in self.aliases:
            yield _record(name, CNAME, _encoded(self.aliases[name]))
            yield from self._records(self.aliases[name], kind)
        for address in map(ip_address, self.names.get(name, ())):
            if kind == (A if address.version == 4 else AAAA):
                yield _record(name, kind, address.packed)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                while length := await reader.readexactly(2):
                    self.asked_by_tcp += 1
                    question = await reader.readexactly(int.from_bytes(length))
                    if said := self.answer(question, 65_535):
                        writer.write(len(said).to_bytes(2) + said)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if said := self._server.answer(data, _UDP_BYTES):
            self._transport.sendto(said, addr)


def _read(message: bytes) -> tuple[str, int, int]:
    """Return the name and type of the question, and where it ends."""
    labels, at = [], 12
    while size := message[at]:
        labels.append(message[at + 1 : at + 1 + size].decode().lower())
        at += 1 + size
    return ".".join(labels), int.from_bytes(message[at + 1 : at + 3]), at + 5


def _message(number: bytes, flags: int, question: bytes, records: Iterable[bytes]) -> bytes:
    answers = list(records)
    head = struct.pack("!HHHHH", _ANSWER | flags, 1, len(answers), 0, 0)
    return number + head + question + b"".join(answers)


def _record(name: str, kind: int, data: bytes) -> bytes:
    return _encoded(name) + struct.pack("!HHIH", kind, 1, 60, len(data)) + data


def _encoded(name: str) -> bytes:
    labels = [label.encode() for label in name.split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
