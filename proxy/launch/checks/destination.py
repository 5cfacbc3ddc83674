"""Where an upstream is, as its settings say."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.config import UpstreamSettings
from proxy.settings.places import DEFAULT_PORTS


@dataclass(frozen=True, slots=True)
class Destination:
    name: str
    settings: UpstreamSettings
    host: str
    port: int
    is_tls: bool


def destinations(upstreams: Mapping[str, UpstreamSettings]) -> list[Destination]:
    """Return them in the settings' order; the first one mints."""
    found = []
    for name, settings in upstreams.items():
        url = urlsplit(settings.url)
        port = url.port or DEFAULT_PORTS[url.scheme]
        found.append(Destination(name, settings, url.hostname or "", port, url.scheme == "https"))
    return found
