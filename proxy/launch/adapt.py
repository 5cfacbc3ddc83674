"""The settings of a proxy that serves one child."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from proxy.config import (
    CA_DIR,
    Address,
    AdminSettings,
    CaSettings,
    ListenerSettings,
    ProxyUrl,
    Settings,
)
from proxy.launch.environment import network_proxy
from proxy.private import RefusedError, refuse_others
from proxy.settings.places import host_of, user_state_dir

TLS, PLAIN, ADMIN = "tls.sock", "plain.sock", "admin.sock"
"""The names of our sockets in a folder that only this user can enter."""
KEPT = "tokens and the local CA"
"""What is in the user's state directory, and others must not replace."""


def usual(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what to take where a setting is not given; `given` are those that are.

    Tokens are kept for the next child, or ten of them in a minute would use up the mint budget.
    """
    log = {"level": "warning"}
    home, store = usable_home(environ), given.get("store")
    names_a_store = isinstance(store, dict) and "url" in store
    if home is None or names_a_store or "state_dir" in given:
        return {"log": log}
    return {"log": log, "state_dir": str(home), "token": {"on_exit": "keep"}}


def usable_home(environ: Mapping[str, str]) -> Path | None:
    """Return the user's state directory, made if it is missing.

    None if it cannot be written to, or others could write to it.
    """
    home = user_state_dir(environ)
    if home is not None:
        with suppress(OSError, RefusedError):
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            refuse_others(home, KEPT)
            if os.access(home, os.W_OK):
                return home
    return None


def refusal(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return why the user's state directory is not safe, if these settings have a use for it."""
    home = user_state_dir(environ)
    is_wanted = settings.store.url.in_memory or _is_at_home(settings.ca, environ)
    if home is not None and settings.state_dir is None and is_wanted:
        try:
            refuse_others(home, KEPT)
        except RefusedError as error:
            return str(error)
        except OSError:  # nobody can put anything there, as where there is no home
            return ""
    return ""


def adapted(settings: Settings, folder: Path, environ: Mapping[str, str]) -> Settings:
    """Return the settings with places for one child: a free port, and sockets in a folder.

    The local CA is there too if it has no other place. Who is left when the child has ended is not
    waited for.
    """
    ca = settings.ca
    if _is_at_home(ca, environ) and usable_home(environ) is None:
        ca = replace(ca, dir=str(folder / CA_DIR))
    return replace(
        settings,
        listeners=(
            _forward(settings.listeners),
            ListenerSettings(bind=Address(path=str(folder / TLS)), mode="tls"),
            ListenerSettings(bind=Address(path=str(folder / PLAIN))),
        ),
        admin=AdminSettings(bind=Address(path=str(folder / ADMIN))),
        ca=ca,
        shutdown=replace(settings.shutdown, drain=0.0),
    )


def _forward(listeners: Iterable[ListenerSettings]) -> ListenerSettings:
    """Return one of our own, from which other hosts are reached as from the first one given."""
    own = ListenerSettings(bind=Address("127.0.0.1", 0), mode="forward")
    for each in listeners:
        if each.mode == "forward":
            return replace(own, other_hosts=each.other_hosts, private_hosts=each.private_hosts)
    return own


def _is_at_home(ca: CaSettings, environ: Mapping[str, str]) -> bool:
    """Tell whether the local CA is where it is unless the settings name another place."""
    home = user_state_dir(environ)
    return ca.dir in (None, home and str(home / CA_DIR))


def with_network_proxy(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Return the settings with the proxy that the environment names, unless they name another.

    Raises ValueError for one that cannot be used.
    """
    found = passed_over_proxy(settings, environ)
    return settings if found is None else replace(settings, upstream_proxy=ProxyUrl.parse(found))


def passed_over_proxy(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy that the environment names where the settings name none."""
    if settings.upstream_proxy is not None:
        return None
    first = next(iter(settings.upstreams.values()))
    return network_proxy(environ, hosts(settings), urlsplit(first.url).scheme)


def hosts(settings: Settings) -> list[str]:
    """Return the hosts of the upstreams, each once."""
    return list(dict.fromkeys(map(host_of, settings.upstreams)))


def sockets(settings: Settings, folder: Path) -> dict[str, str]:
    """Return which socket stands in for each `host:port` of an upstream.

    Behind a port that its name tells an upstream speaks what its URL says.
    """
    found: dict[str, str] = {}
    for name, upstream in settings.upstreams.items():
        if name == host_of(name):
            found |= {f"{name}:443": str(folder / TLS), f"{name}:80": str(folder / PLAIN)}
        else:
            in_clear = upstream.url.startswith("http:")
            found[name] = str(folder / (PLAIN if in_clear else TLS))
    return found
