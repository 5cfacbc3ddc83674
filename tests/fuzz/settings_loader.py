r"""The settings loader: a file, variables and flags that say whatever the fuzzer says.

They load, and then survive being written out and read again; or they are refused with reasons. A
secret that stands where secrets belong is in no such reason, nor in what is written out.

An input is the text of the file. Behind it, 0xFF and a letter starts something more:

- `\xffE` a variable, `NAME=value`
- `\xffS` a flag, `--set` without the word: `key=value`

and what holds a secret, at each 0xFE and at the end:

- `\xffk` `--set api_key`, and `\xffe` the variable of `api_key`: `.below=value` or `=value`
- `\xffc` `--set clients.a.tokens`, where a plain token may stand by mistake
- `\xffy` `api_key` in the file: `name=value` for a mapping, else text
- `\xffu` a URL: `user@rest`, `\xffs` that of a Redis store, and `\xffp` of the upstream proxy
"""

import contextlib
import json
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proxy.config import Settings, SettingsError, effective, load

SECRET = "zq4-secret-5ad81c07"
_TELLING = SECRET[:9]
"""So much of it gives it away."""
_PART = re.compile(rb"\xff([ESkceyusp])")
_PREFIX = "MOBULA_PROXY__"
_URLS = {
    b"u": ("upstreams.a.test.url", "https"),
    b"s": ("store.url", "redis"),
    b"p": ("upstream_proxy", "http"),
}


@dataclass(slots=True)
class Sources:
    file: bytes = b""
    environ: dict[str, str] = field(default_factory=dict)
    overrides: list[tuple[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def target() -> Iterator[Callable[[bytes], None]]:
    """Give the function that takes one input, and raises if a promise is broken."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        yield lambda data: _one_input(file, parse(data))


def parse(data: bytes) -> Sources:
    """Read a fuzzer's bytes; all of them mean something."""
    pieces = _PART.split(data)
    sources = Sources(file=pieces[0])
    for kind, raw in zip(pieces[1::2], pieces[2::2], strict=True):
        text = raw.decode("utf-8", "surrogateescape")
        if kind in b"ES":
            _add(sources, kind, *_halves(text))
        else:
            _add_secret(sources, kind, text.replace("\udcfe", SECRET) + SECRET)
    return sources


def _add(sources: Sources, kind: bytes, name: str, value: str) -> None:
    if kind == b"S":
        sources.overrides.append((name, value))
    else:
        sources.environ[name] = value


def _add_secret(sources: Sources, kind: bytes, text: str) -> None:
    below, value = _halves(text)
    if kind == b"k":
        _add(sources, b"S", f"api_key.{below}" if below else "api_key", value)
    elif kind == b"c":
        _add(sources, b"S", "clients.a.tokens", text)
    elif kind == b"e":
        name = f"{_PREFIX}API_KEY" + (f"__{below}" if below else "")
        _add(sources, b"E", name.replace(SECRET, ""), value)
    elif kind in _URLS:
        user, _, rest = text.removesuffix(SECRET).replace(SECRET, "").partition("@")
        name, scheme = _URLS[kind]
        _add(sources, b"S", name, f"{scheme}://{user}{SECRET}@{rest}")
    else:
        line = {"api_key": {below: value} if below else value}
        sources.file = json.dumps(line)[1:-1].encode() + b"\n" + sources.file


def _halves(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _one_input(file: Path, sources: Sources) -> None:
    file.write_bytes(sources.file)
    try:
        settings = load(file=file, environ=sources.environ, overrides=sources.overrides)
    except SettingsError as error:
        check_refusal(error)
    else:
        check_settings(settings, file)


def check_refusal(error: SettingsError) -> None:
    """Check that there are reasons, and that they give nothing away."""
    assert error.problems, "refused without a reason"
    told = "".join(traceback.format_exception(error))
    assert _TELLING not in told, f"the secret is told: {told}"


def check_settings(settings: Settings, file: Path) -> None:
    """Check that settings can be written out and, if that hides nothing, are read as the same."""
    urls = [url for url in (settings.store.url, settings.upstream_proxy) if url and url.hides]
    assert not any(_TELLING in f"{url} {url!r}" for url in urls), "the secret is shown"
    file.write_text(effective(settings))
    if urls:
        return
    again = load(file=file, environ={}, overrides=[])
    assert again == settings, (settings, again)
