"""What a proxy for one child takes from its settings, and what it does not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.config import MEMORY, Settings, SettingsError, load
from proxy.launch.adapt import adapted, hosts, refusal, sockets, usual, with_network_proxy


def loaded(environ: Mapping[str, str], **given: Any) -> Settings:
    """The settings of a proxy for a child, for which these were given."""
    return load(
        file=None,
        environ=environ,
        overrides=[(name.replace("__", "."), json.dumps(value)) for name, value in given.items()],
        usual=lambda given: usual(given, environ),
    )


# What is usual


def test_without_a_place_for_tokens_they_are_kept_in_the_users_own(tmp_path: Path) -> None:
    settings = loaded({"HOME": str(tmp_path)})
    home = tmp_path / ".local/state/mobula-proxy"
    assert settings.store.url.file == str(home / "tokens.db")
    assert settings.token.on_exit == "keep"
    assert settings.ca.dir == str(home / "ca")
    assert settings.log.level == "warning"
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "given", [{"store__url": "memory://"}, {"state_dir": "/srv/state"}, {"state_dir": None}]
)
def test_where_one_is_given_the_rest_is_as_ever(tmp_path: Path, given: dict[str, Any]) -> None:
    settings = loaded({"HOME": str(tmp_path)}, **given)
    assert str(tmp_path) not in (settings.store.url.file or "")
    assert settings.token.on_exit == "revoke"
    assert settings.log.level == "warning"


def test_what_is_given_goes_before_what_is_usual(tmp_path: Path) -> None:
    given = {"token__on_exit": "revoke", "token__standby": 3, "log__level": "info"}
    settings = loaded({"HOME": str(tmp_path)}, **given)
    assert (settings.token.on_exit, settings.token.standby) == ("revoke", 3)
    assert settings.log.level == "info"
    assert settings.store.url.file is not None


@pytest.mark.parametrize("section", ["log", "store", "token"])
def test_a_section_that_is_none_is_told_as_ever(tmp_path: Path, section: str) -> None:
    with pytest.raises(SettingsError, match=f"{section}: must be a mapping of settings"):
        loaded({"HOME": str(tmp_path)}, **{section: "loud"})


@pytest.mark.parametrize("environ", [{}, {"HOME": "/proc/1"}])
def test_without_a_home_that_can_be_used_tokens_are_in_memory_and_revoked(
    environ: dict[str, str],
) -> None:
    settings = loaded(environ)
    assert (settings.store.url, settings.token.on_exit) == (MEMORY, "revoke")


def unsafe_home(path: Path) -> dict[str, str]:
    """An environment whose state directory others can write to."""
    folder = path / "mobula-proxy"
    folder.mkdir()
    folder.chmod(0o775)
    return {"XDG_STATE_HOME": str(path)}


def test_nor_are_they_kept_where_others_could_replace_them(tmp_path: Path) -> None:
    settings = loaded(unsafe_home(tmp_path))
    assert (settings.store.url, settings.token.on_exit) == (MEMORY, "revoke")


@pytest.mark.parametrize(
    ("given", "is_told"),
    [
        ({}, True),
        ({"ca__dir": "/srv/ca"}, True),
        ({"store__url": "redis://localhost/0"}, True),
        ({"state_dir": "/srv/state"}, False),
        ({"store__url": "redis://localhost/0", "ca__dir": "/srv/ca"}, False),
    ],
)
def test_that_is_told_to_whom_it_concerns(
    tmp_path: Path, given: dict[str, Any], *, is_told: bool
) -> None:
    environ = unsafe_home(tmp_path)
    told = f"others can write to {tmp_path}/mobula-proxy, and so replace tokens and the local CA"
    assert refusal(loaded(environ, **given), environ).startswith(told) == is_told


@pytest.mark.parametrize("environ", [{}, {"HOME": "/proc/1"}])
def test_where_there_is_no_home_nothing_is_told_of_it(environ: dict[str, str]) -> None:
    assert refusal(loaded(environ), environ) == ""


# Places


def test_listeners_and_the_admin_address_are_for_this_child_alone(tmp_path: Path) -> None:
    given = {"listeners": [{"bind": "127.0.0.1:8080"}], "admin": {"bind": "127.0.0.1:9090"}}
    settings = adapted(loaded({}, **given), tmp_path, {})
    assert [(each.mode, str(each.bind)) for each in settings.listeners] == [
        ("forward", "127.0.0.1:0"),
        ("tls", f"unix:{tmp_path}/tls.sock"),
        ("reverse", f"unix:{tmp_path}/plain.sock"),
    ]
    assert str(settings.admin.bind) == f"unix:{tmp_path}/admin.sock"
    assert settings.listeners[0].other_hosts == settings.listeners[0].private_hosts == "tunnel"


def test_other_hosts_are_reached_as_the_first_forward_listener_lets_them_be(tmp_path: Path) -> None:
    first = {"mode": "forward", "other_hosts": "tunnel", "private_hosts": "deny"}
    second = {"mode": "forward", "other_hosts": "deny"}
    binds = [{"bind": f"127.0.0.1:{port}"} for port in (8080, 8081, 8082)]
    listeners = [each | more for each, more in zip(binds, ({}, first, second), strict=True)]
    forward = adapted(loaded({}, listeners=listeners), tmp_path, {}).listeners[0]
    assert str(forward.bind) == "127.0.0.1:0"
    assert (forward.other_hosts, forward.private_hosts) == ("tunnel", "deny")


@pytest.mark.parametrize("environ", [{}, {"HOME": "/proc/1"}])
def test_the_local_ca_is_beside_the_sockets_if_there_is_no_home(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    assert adapted(loaded(environ), tmp_path, environ).ca.dir == str(tmp_path / "ca")


def test_so_it_is_if_others_could_replace_it_at_home(tmp_path: Path) -> None:
    environ = unsafe_home(tmp_path)
    assert adapted(loaded(environ), tmp_path, environ).ca.dir == str(tmp_path / "ca")


@pytest.mark.parametrize(
    ("given", "place"),
    [({"ca__dir": "/srv/ca"}, "/srv/ca"), ({"state_dir": "/srv/state"}, "/srv/state/ca"), ({}, "")],
)
def test_it_is_where_the_settings_say_or_in_the_users_state_directory(
    tmp_path: Path, given: dict[str, Any], place: str
) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    found = adapted(loaded(environ, **given), tmp_path / "folder", environ).ca.dir
    assert found == (place or f"{tmp_path}/mobula-proxy/ca")


def test_each_upstream_has_its_sockets(tmp_path: Path) -> None:
    upstreams = {
        "api.mobula.io": {},
        "tls.test:8443": {"url": "https://tls.test:8443"},
        "localhost:9000": {"url": "http://localhost:9000"},
    }
    settings = loaded({}, upstreams=upstreams)
    assert hosts(settings) == ["api.mobula.io", "tls.test", "localhost"]
    assert sockets(settings, tmp_path) == {
        "api.mobula.io:443": f"{tmp_path}/tls.sock",
        "api.mobula.io:80": f"{tmp_path}/plain.sock",
        "tls.test:8443": f"{tmp_path}/tls.sock",
        "localhost:9000": f"{tmp_path}/plain.sock",
    }


# The network's own proxy

CORP = {"HTTPS_PROXY": "http://user:word@corp"}


def test_the_proxy_of_the_environment_is_ours_to_use() -> None:
    found = with_network_proxy(loaded({}), CORP).upstream_proxy
    assert found is not None
    assert (str(found), found.hides) == ("http://***@corp:80", True)


def test_the_settings_go_before_the_environment() -> None:
    settings = loaded({}, upstream_proxy="http://other:3128")
    assert with_network_proxy(settings, CORP) == settings


def test_one_that_is_no_http_proxy_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="must be http://host:port"):
        with_network_proxy(loaded({}), {"ALL_PROXY": "socks5://corp:1080"})
