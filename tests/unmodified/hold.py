"""What runs first in a machine of its own (`machine.py`), and keeps it in being.

It brings up loopback, puts a file in the place of /etc/hosts, and answers for DNS; where, is what
it prints. It ends with its standard input.
"""

import asyncio
import fcntl
import socket
import struct
import subprocess
import sys

from name_server import NameServer

SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def bring_up(interface: bytes) -> None:
    """Do what `ip link set INTERFACE up` does (netdevice(7)); not every system has `ip`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", interface, IFF_UP))


async def answer(records: list[str]) -> None:
    """Be a name server for these records, as in `name=address`."""
    async with NameServer() as server:
        for record in records:
            name, _, address = record.partition("=")
            server.names[name] = (address,)
        sys.stdout.write(f"{server.place}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def main(hosts: str, *records: str) -> None:
    bring_up(b"lo")
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    asyncio.run(answer(list(records)))


main(*sys.argv[1:])
