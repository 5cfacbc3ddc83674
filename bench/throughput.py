"""Print what a request costs in CPU time, with and without the proxy, in one run.

The load comes from this process and goes to the sandbox directly, then through the proxy. These
machines are noisy, so compare figures of one run only. CPU per request counts the proxy alone.
"""

import time

import uvloop

from children import KEY, cpu_seconds, proxy, sandbox
from load import load

PATH = "/api/1/market/data?asset=Bitcoin"
REQUESTS = 30_000
WARM_UP = 2_000


async def _measure(url: str, connections: int, pid: int | None = None) -> str:
    async def run(requests: int) -> float:
        headers = f"x-api-key: {KEY}\r\n"
        started = time.perf_counter()
        result = await load(url + PATH, requests=requests, connections=connections, headers=headers)
        assert result.failed == 0, result.statuses
        return time.perf_counter() - started

    await run(WARM_UP)
    before = cpu_seconds(pid) if pid else 0.0
    seconds = await run(REQUESTS)
    line = f"{REQUESTS / seconds:8.0f} requests/s"
    if pid:
        line += f"   {(cpu_seconds(pid) - before) / REQUESTS * 1e6:6.1f} µs of CPU a request"
    return line


async def main() -> None:
    with sandbox() as url, proxy(url, "token.request_limit=1000000") as running:
        for connections in (1, 64):
            print(f"{connections:3} connections, direct  {await _measure(url, connections)}")
            proxied = await _measure(running.url, connections, running.pid)
            print(f"{connections:3} connections, proxied {proxied}")


if __name__ == "__main__":
    uvloop.run(main())
