"""A look that does not end well costs its own lines only."""

import asyncio

from proxy.launch.examination import bounded
from proxy.launch.report import Line, ok

WELL = ok("dns", "api.test", "127.0.0.7")


async def test_a_look_gives_its_lines() -> None:
    async def look() -> list[Line]:
        return [WELL]

    assert await bounded("dns", look()) == [WELL]


async def test_a_look_that_does_not_end_is_told_to_be_so() -> None:
    async def look() -> list[Line]:
        await asyncio.Event().wait()
        return []

    (line,) = await bounded("dns", look(), seconds=0.01)
    assert (line.grade.value, line.check, line.found) == ("fail", "dns", "not known within 0.01 s")


async def test_a_look_that_fails_is_told_to_be_so_and_not_what_it_was_about() -> None:
    async def look() -> list[Line]:
        raise KeyError("a secret")

    (line,) = await bounded("dns", look())
    assert (line.grade.value, line.found) == ("fail", "doctor itself failed: KeyError")
    assert "secret" not in line.step
