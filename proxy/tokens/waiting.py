"""Those who wait for something about the tokens to change."""

import asyncio


class Waiters:
    """Wakes all at once; what each waits for it must look at itself."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def wake(self) -> None:
        for each in self._waiting:
            if not each.done():
                each.set_result(None)

    async def change(self, seconds: float) -> bool:
        """Wait until something changed; False if nothing did within `seconds`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiter)
        return True


async def wait_for(event: asyncio.Event, seconds: float | None) -> None:
    """Return when the event is set, at the latest after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
