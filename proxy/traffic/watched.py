"""Files that are read again when they change, while the proxy runs."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Self

from proxy.traffic.fact import Reread

POLL_SECONDS = 2.0
MOST_BYTES = 1 << 24


class Watched(AbstractAsyncContextManager["Watched"]):
    """Some files that belong together; `async with` looks after them.

    Their content is compared, not its times: that covers a rewrite in place as well as the symlink
    swap by which Kubernetes updates a mounted Secret. What was read last stays in use until they
    can be read again.
    """

    def __init__(
        self,
        files: Sequence[str],
        take: Callable[[], None],
        tell: Callable[[Reread], None],
        *,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """`take` reads them, blocking, and puts what they say into use; it is called once now.

        It raises OSError or ValueError, and then what was in use stays so.
        """
        self._files = files
        self._take = take
        self._tell = tell
        self._poll_seconds = poll_seconds
        self._seen = self._digest()
        take()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Watched {', '.join(self._files)}>"

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            digest = await asyncio.to_thread(self._digest)
            if digest != self._seen:
                self._seen = digest
                self._tell(Reread(self._files[0], await asyncio.to_thread(self._problem)))

    def _problem(self) -> str:
        """Take the files in; return what is wrong with them, or nothing."""
        try:
            self._take()
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    def _digest(self) -> bytes:
        """Return what is another one once a file is; of one that cannot be read, of nothing."""
        found = hashlib.sha256()
        for each in self._files:
            with suppress(OSError), Path(each).open("rb") as file:
                found.update(file.read(MOST_BYTES))
            found.update(b"\0")
        return found.digest()
