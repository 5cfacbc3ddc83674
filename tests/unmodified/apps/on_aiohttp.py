"""An app on aiohttp, which looks at the environment only if it is told to."""

import asyncio
import os
import sys

import aiohttp


async def main() -> None:
    headers = {"Authorization": os.environ["MOBULA_API_KEY"]}
    async with aiohttp.ClientSession(
        "https://api.mobula.io", headers=headers, trust_env=True
    ) as session:
        for path in sys.argv[1:]:
            async with session.get(path) as answer:
                print(await answer.text(), answer.status)


asyncio.run(main())
