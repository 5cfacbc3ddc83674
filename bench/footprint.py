"""Print what an idle proxy costs: seconds from start to ready, and resident memory.

Targets: ready within 1 s against a local sandbox, at most 50 MB idle.
"""

import statistics
import time

from children import memory_mb, proxy, sandbox

RUNS = 5
SETTLE_SECONDS = 1.0


def main() -> None:
    ready, idle, private = [], [], []
    with sandbox() as url:
        for _ in range(RUNS):
            with proxy(url) as running:
                ready.append(running.ready_seconds)
                time.sleep(SETTLE_SECONDS)
                idle.append(memory_mb(running.pid))
                private.append(memory_mb(running.pid, "RssAnon"))
    print(
        f"ready after   {statistics.median(ready):6.2f} s   (worst of {RUNS}: {max(ready):.2f} s)"
    )
    print(
        f"idle memory   {statistics.median(idle):6.1f} MB  (of it private: {max(private):.1f} MB)"
    )


if __name__ == "__main__":
    main()
