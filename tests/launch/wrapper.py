"""A program that runs another one as exec does, but without a proxy."""

import asyncio
import os
import sys

import uvloop

from proxy.launch.process import Child
from proxy.launch.program import ProgramError, find_program
from proxy.launch.signals import Signals, exit_code
from proxy.launch.streams import fill, let_go
from proxy.launch.witness import Witness


async def main() -> int:
    witness.listen()
    return await child.run(os.environ, Signals())


fill()
try:
    path = find_program(sys.argv[1], os.environ)
    witness = Witness()
    child = Child(path, sys.argv[1:], witness)
    let_go(0, 1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(main())
except ProgramError as error:
    sys.stderr.write(f"wrapper: {error}\n")
    sys.exit(error.code)
sys.exit(exit_code(code))
