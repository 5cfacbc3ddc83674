"""What a kubelet does for a pod, under a folder: its volumes become files, and its containers run.

Paths in the container become paths under the folder, and listeners take free ports on loopback. All
else is as it was rendered.
"""

import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api_server import OWN_TOKEN
from harness import Command, SecretScan, command
from helm.engine import Object
from helm.kube import of_kind

Contents = Mapping[str, str]
"""Of a Secret or a ConfigMap: the text of each key."""

_BIND = re.compile(r"(0\.0\.0\.0|\[::\]):\d+")
_PYTHON = "/opt/mobula-proxy/bin/python"


class Pod:
    """One pod on a disk of its own; `secrets` are those that exist beside what was rendered."""

    def __init__(
        self,
        spec: Object,
        objects: Sequence[Object],
        folder: Path,
        secrets: Mapping[str, Contents] | None = None,
    ) -> None:
        self.folder = folder
        self._spec = spec
        maps = of_kind(objects, "ConfigMap")
        self._maps = {each["metadata"]["name"]: each["data"] for each in maps}
        self._secrets = {**_secrets(objects), **(secrets or {})}
        self._volumes = {each["name"]: each for each in spec.get("volumes") or ()}
        for name, volume in self._volumes.items():
            self._fill(folder / "volumes" / name, volume)

    def file(self, container: str, path: str) -> Path:
        """Return where the file is that a container has at this path."""
        return Path(self._moved(self._named(container), path))

    def environ(self, container: str) -> dict[str, str]:
        """Return the environment that a container is given."""
        named = self._named(container)
        return {
            each["name"]: self._moved(named, self._value(each)) for each in named.get("env") or ()
        }

    def prepare(self) -> None:
        """Run the init containers that end, each to its end."""
        for each in self._spec.get("initContainers") or ():
            if each.get("restartPolicy") != "Always":
                subprocess.run(self._arguments(each), check=True, timeout=20)

    @contextmanager
    def proxy(
        self, container: str, scan: SecretScan, within: Sequence[str] = ()
    ) -> Iterator[Command]:
        """Run a proxy's container: the installed command, as the image's entry point is."""
        named = self._named(container)
        self._settle(named)
        environ = self.environ(container)
        with command(*self._arguments(named), scan=scan, environ=environ, within=within) as proxy:
            yield proxy

    def run(self, container: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a container that ends, with other last arguments than those rendered."""
        rendered = self._arguments(self._named(container))
        command = [*rendered[: len(rendered) - len(arguments)], *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def _named(self, name: str) -> Object:
        every = [*(self._spec.get("initContainers") or ()), *self._spec["containers"]]
        return next(each for each in every if each["name"] == name)

    def _arguments(self, container: Object) -> list[str]:
        rendered = [*(container.get("command") or ()), *(container.get("args") or ())]
        moved = [self._moved(container, each) for each in rendered]
        return [sys.executable if each == _PYTHON else each for each in moved]

    def _moved(self, container: Object, text: str) -> str:
        """Put paths of a container into the folder, wherever they stand in a text."""
        for mount in container.get("volumeMounts") or ():
            place = self.folder / "volumes" / mount["name"]
            text = re.sub(rf"{re.escape(mount['mountPath'])}(?=/|$)", str(place), text)
        return text

    def _settle(self, container: Object) -> None:
        """Have the settings name the folder's paths and free ports."""
        for mount in container["volumeMounts"]:
            if "configMap" in self._volumes[mount["name"]]:
                for file in (self.folder / "volumes" / mount["name"]).iterdir():
                    text = self._moved(container, file.read_text())
                    file.write_text(_BIND.sub("127.0.0.1:0", text))

    def _fill(self, place: Path, volume: Object) -> None:
        place.mkdir(parents=True, exist_ok=True)
        match volume:
            case {"emptyDir": _}:
                place.chmod(0o2777)
            case {"configMap": source}:
                _write(place, self._maps[source["name"]], source)
            case {"secret": source}:
                _write(place, self._secrets[source["secretName"]], source)
            case {"projected": {"sources": sources}}:
                for source in sources:
                    self._project(place, source)
            case _:
                raise AssertionError(f"a volume of another kind: {volume}")

    def _project(self, place: Path, source: Object) -> None:
        match source:
            case {"serviceAccountToken": {"path": path}}:
                (place / path).write_text(OWN_TOKEN)
            case {"configMap": {"name": name, "items": items}}:
                _write(place, self._secrets[name], {"items": items})

    def _value(self, variable: Object) -> str:
        if "value" in variable:
            return str(variable["value"])
        key = variable["valueFrom"]["secretKeyRef"]
        return self._secrets[key["name"]][key["key"]]


def _secrets(objects: Sequence[Object]) -> dict[str, Contents]:
    return {each["metadata"]["name"]: _texts(each) for each in of_kind(objects, "Secret")}


def _texts(secret: Object) -> Contents:
    encoded = secret.get("data") or {}
    decoded = {key: b64decode(value).decode() for key, value in encoded.items()}
    return {**decoded, **(secret.get("stringData") or {})}


def _write(place: Path, contents: Contents, source: Mapping[str, Any]) -> None:
    items = source.get("items") or [{"key": key, "path": key} for key in contents]
    for item in items:
        file = place / item["path"]
        file.write_text(contents[item["key"]])
        file.chmod(source.get("defaultMode", 0o644))
