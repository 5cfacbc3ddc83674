"""The image as the Dockerfile makes it, and containers of it."""

import contextlib
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from container import dockerfile
from container.build import Builder, locked
from container.context import Context
from container.dockerfile import Config
from container.trees import contained, need_namespaces
from harness import KEY, Command, SecretScan, Served, command

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / ".image"
USER = "65532:65532"
ANY_USER = "1000660000:0"
"""As OpenShift draws them: a number that no file of the image knows, in group 0."""


@dataclass(frozen=True)
class Image:
    """`base` is the tree of what the Dockerfile begins from."""

    tree: Path
    base: Path
    config: Config

    def run(self, volume: Path, *arguments: str, user: str = USER) -> str:
        """Run a command in a container to its end, and return what it says."""
        asked = [*contained(self.tree, volume, user), *arguments]
        return subprocess.run(
            asked, env=self.config.environ, check=True, capture_output=True, text=True
        ).stdout

    @contextlib.contextmanager
    def started(
        self,
        volume: Path,
        scan: SecretScan,
        *arguments: str,
        user: str = USER,
        **environ: str,
    ) -> Iterator[Command]:
        """A container while it runs; `arguments` take the place of the image's command."""
        name, *rest = self.config.entrypoint
        with command(
            *rest,
            *(arguments or self.config.command),
            scan=scan,
            environ={**self.config.environ, **environ},
            within=contained(self.tree, volume, user),
            named=name,
        ) as process:
            yield process

    @contextlib.asynccontextmanager
    async def serving(
        self,
        sandbox_url: str,
        volume: Path,
        scan: SecretScan,
        *arguments: str,
        user: str = USER,
        **environ: str,
    ) -> AsyncIterator[Served]:
        """A container in front of a sandbox, on free ports, once it serves."""
        set_here = {
            "MOBULA_API_KEY": KEY,
            "MOBULA_PROXY__UPSTREAMS": json.dumps({"api.mobula.io": {"url": sandbox_url}}),
            "MOBULA_PROXY__LISTENERS": '[{"bind": "127.0.0.1:0"}]',
            "MOBULA_PROXY__ADMIN__BIND": "127.0.0.1:0",
        }
        with self.started(volume, scan, *arguments, user=user, **(set_here | environ)) as process:
            yield await Served.of(process)

    def stop(self, process: Command) -> None:
        """Do as a container engine does to end a container in order."""
        process_one(process).send_signal(getattr(signal, self.config.stop_signal))


def process_one(process: Command) -> psutil.Process:
    """The first process of a container, which ends with it."""
    (only,) = psutil.Process(process.pid).children()
    return only


def built() -> Image:
    """Build the image, or take what an earlier build has left of it."""
    need_namespaces()
    stages = dockerfile.read((REPOSITORY / "Dockerfile").read_text())
    *_, last = stages.values()
    with locked(FOLDER):
        builder = Builder(FOLDER, Context(REPOSITORY), stages)
        base = builder.tree(next(iter(stages.values())).base)
        image = Image(builder.tree(last.name), base, last.config)
        builder.forget_others()
    return image
