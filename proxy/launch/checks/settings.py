"""What the settings come to, and what in them is risky. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from proxy.config import Settings, SettingsError
from proxy.launch.report import Line, fail, ok, warn
from proxy.settings.sources import PREFIX

CHECK = "settings"


def refused(error: SettingsError) -> list[Line]:
    """Return a line for each problem: nothing can be said of what they are about."""
    step = "correct it; config.example.yaml has every setting"
    return [
        fail(CHECK, each.name, str(each).removeprefix(f"{each.name}: "), step=step)
        for each in error.problems
    ]


def judge(settings: Settings, sources: str) -> Iterator[Line]:
    yield ok(CHECK, sources, _summary(settings))
    for index, listener in enumerate(settings.listeners):
        if listener.insecure and not listener.bind.is_loopback:
            yield warn(
                CHECK,
                f"listeners[{index}].insecure",
                f"whoever reaches {listener.bind} can spend your tokens",
                step="set authenticate: true in its place, and name clients; or bind 127.0.0.1",
            )
    for name, upstream in settings.upstreams.items():
        if upstream.insecure:
            yield warn(
                CHECK,
                f"upstreams.{name}.insecure",
                "it allows that tokens, and the static key, travel in clear",
                step=f"set upstreams.{name}.url to https://, and take insecure out",
            )


def sources_of(
    file: Path | None, environ: Mapping[str, str], overrides: Sequence[tuple[str, str]]
) -> str:
    """Say where settings are read from."""
    variables = sum(name.startswith(PREFIX) for name in environ)
    found = [
        str(file) if file else "",
        _counted(variables, "variable"),
        _counted(len(overrides), "flag"),
    ]
    return ", ".join(filter(None, found)) or "the defaults"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}" if number else ""


def _summary(settings: Settings) -> str:
    """Say what it will be; a minter has no listeners, nor has one for a command that is told."""
    listeners = settings.listeners if settings.role != "minter" else ()
    shown = ", ".join(f"{each.mode} {each.bind}" for each in listeners)
    parts = [f"role {settings.role}", shown, f"store {settings.store.url}"]
    return "; ".join(filter(None, parts))
