"""The folder of one child's own: the sockets of its proxy, and the files that it reads."""

import os
from tempfile import TemporaryDirectory, gettempdir

from proxy.listening import StartError

PREFIX = "mobula-proxy-"
SHORT = "/tmp"  # noqa: S108 - the folder in it is drawn, and closed to others
MOST_BYTES = 103 - len(f"/{PREFIX}12345678/plain.sock")
"""How long the path of the folder around it may be: one of a socket has 103 bytes everywhere."""


def own_folder() -> TemporaryDirectory[str]:
    """Make it where temporary files are, or in a short place if sockets there had too long paths.

    Raises StartError.
    """
    usual = gettempdir()
    if len(os.fsencode(usual)) <= MOST_BYTES:
        return TemporaryDirectory(prefix=PREFIX)
    try:
        return TemporaryDirectory(prefix=PREFIX, dir=SHORT)
    except OSError as error:
        raise StartError(
            f"TMPDIR is too long for sockets in it, and {SHORT} cannot be used "
            f"({error.strerror}): set TMPDIR to a folder of at most {MOST_BYTES} bytes"
        ) from error
