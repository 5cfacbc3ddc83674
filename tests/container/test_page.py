"""The Compose file of docs/container.md: that its parts fit each other, and the proxy."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from container.image import REPOSITORY
from harness import called
from proxy.config import Settings, load

PAGE = (REPOSITORY / "docs" / "container.md").read_text()
COMPOSE = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def compose() -> dict[str, Any]:
    (text,) = COMPOSE.findall(PAGE)
    tree: dict[str, Any] = yaml.safe_load(text)
    return tree


@pytest.fixture
def proxy(compose: dict[str, Any]) -> dict[str, Any]:
    service: dict[str, Any] = compose["services"]["mobula-proxy"]
    return service


@pytest.fixture
def settings(proxy: dict[str, Any]) -> Settings:
    return load(file=None, environ=proxy["environment"], overrides=[])


def test_its_service_has_no_more_rights_than_it_needs(proxy: dict[str, Any]) -> None:
    assert proxy["read_only"] is True
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["security_opt"] == ["no-new-privileges:true"]


def test_all_that_is_mounted_is_there_before_its_container(compose: dict[str, Any]) -> None:
    """Into one whose root file system is read-only, Compose writes no file."""
    assert compose.keys() == {"services", "secrets", "volumes"}
    assert all(each.keys() == {"file"} for each in compose["secrets"].values())


def test_its_settings_name_the_secret_and_a_new_folder_on_the_volume(
    compose: dict[str, Any], proxy: dict[str, Any], settings: Settings
) -> None:
    (secret,) = compose["secrets"]
    (volume,) = proxy["volumes"]
    assert proxy["environment"]["MOBULA_API_KEY_FILE"] == f"/run/secrets/{secret}"
    assert settings.state_dir is not None
    assert Path(settings.state_dir).parent == Path(volume.partition(":")[2])


def test_its_app_finds_the_listener(compose: dict[str, Any], settings: Settings) -> None:
    """Which is on loopback, and so in the network that the app shares."""
    app = compose["services"]["app"]
    assert app["network_mode"] == "service:mobula-proxy"
    assert app["environment"]["MOBULA_API_URL"] == f"http://{settings.listeners[0].bind}"


def test_it_is_given_time_to_drain_and_to_revoke(proxy: dict[str, Any], settings: Settings) -> None:
    granted = float(proxy["stop_grace_period"].removesuffix("s"))
    assert granted > settings.shutdown.drain + settings.shutdown.revoke


def test_its_health_check_is_a_command_that_fails_while_nothing_is_ready(
    proxy: dict[str, Any],
) -> None:
    kind, _, *arguments = proxy["healthcheck"]["test"]
    assert kind == "CMD"
    assert called(*arguments, "--admin", "127.0.0.1:1")[0] == 1
