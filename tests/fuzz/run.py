"""Fuzz one target with atheris: `python tests/fuzz/run.py TARGET [libFuzzer's options] [paths]`.

Without paths it goes on from the seeds, the corpus and what it has found before; what it finds goes
to `.fuzz/TARGET/`, and an input that fails to `.fuzz/`. Such a file as the path is replayed:

    .venv/bin/python tests/fuzz/run.py request_path .fuzz/request_path-crash-…
"""

import hashlib
import shlex
import sys
from importlib import import_module
from pathlib import Path

import atheris

HERE = Path(__file__).parent
FOUND = HERE.parent.parent / ".fuzz"
DICTIONARIES = {"settings_loader": "settings.dict", "websocket_path": "websocket.dict"}

sys.path.insert(0, str(HERE.parent))

with atheris.instrument_imports(include=["proxy", "h11"]):
    # h11 is what the targets read HTTP with: its coverage leads to inputs that are HTTP.
    import h11  # noqa: F401

    import proxy.app  # noqa: F401

from fuzz.seeds import SEEDS  # noqa: E402 - after what is instrumented


def main() -> None:
    script, name, *options = sys.argv
    if all(option.startswith("-") for option in options):
        options += [str(_found(name)), str(HERE / "corpus" / name)]
    limits = [
        "-timeout=10",
        "-max_len=4096",
        "-len_control=20",
        f"-artifact_prefix={FOUND}/{name}-",
    ]
    dictionary = HERE / DICTIONARIES.get(name, "http.dict")
    # libFuzzer starts itself again when it merges, by what it takes for its own name.
    command = shlex.join([sys.executable, script, name])
    with import_module(f"fuzz.{name}").target() as one_input:
        atheris.Setup([command, *limits, f"-dict={dictionary}", *options], one_input)
        atheris.Fuzz()


def _found(name: str) -> Path:
    """Return the folder for what is found, with the seeds in it."""
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS[name]:
        (folder / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    return folder


if __name__ == "__main__":
    main()
