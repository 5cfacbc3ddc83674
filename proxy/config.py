"""The settings: YAML file, then environment, then flags; parsed once into frozen sections.

No module below `app` sees the whole; each gets its own section. Durations are seconds and sizes
are bytes in the sections, and human text (`1h`, `64KiB`) in every source.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from msgspec import Meta, field
from msgspec.structs import force_setattr, replace

from proxy.settings.clients import Clients, ClientSettings, ambiguous, read_clients
from proxy.settings.ip import IpAddress, NameServers
from proxy.settings.places import (
    Address,
    Bind,
    Directory,
    HttpUrl,
    UpstreamName,
    names_an_address,
    travels_in_clear,
    user_state_dir,
)
from proxy.settings.problems import Problem, SettingsError, full_name
from proxy.settings.proxy_url import OptionalProxyUrl, ProxyUrl
from proxy.settings.section import Finding, Section, nearest, parse, plain
from proxy.settings.sources import read
from proxy.settings.store_url import MEMORY, AnyStoreUrl, StoreUrl
from proxy.settings.values import (
    Duration,
    Leaf,
    OptionalDuration,
    SettingPath,
    Size,
    Text,
    Wrong,
    duration,
    one_of,
)

__all__ = [
    "MEMORY",
    "MOBULA_DOMAIN",
    "MOBULA_HOSTS",
    "Address",
    "AdminSettings",
    "ApiKeySettings",
    "CaSettings",
    "ClientSettings",
    "LimitSettings",
    "ListenerSettings",
    "ListenerTlsSettings",
    "LogSettings",
    "Problem",
    "ProxyUrl",
    "ServiceAccountSettings",
    "Settings",
    "SettingsError",
    "ShutdownSettings",
    "StoreSecretSettings",
    "StoreSettings",
    "StoreUrl",
    "TokenSettings",
    "UpstreamSettings",
    "effective",
    "json_schema",
    "load",
    "read_clients",
]


MOBULA_DOMAIN = "mobula.io"
MOBULA_HOSTS = (
    "api.mobula.io",
    "api-2.mobula.io",
    "demo-api.mobula.io",
    "graphql.mobula.io",
    "production-api.mobula.io",
    "production-feed.mobula.io",
    "pulse-v2-api.mobula.io",
    "stream-evm-prod.mobula.io",
    "stream-sol-prod.mobula.io",
)
"""The hosts that Mobula's own clients call: REST, GraphQL and streams."""
STORE_FILE = "tokens.db"
"""The store's name in `state_dir`."""
CA_DIR = "ca"
"""The local CA's name in `state_dir`, and in the user's own state directory."""
POD_CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where Kubernetes puts what a pod needs to speak to the API server."""


class ApiKeySettings(Section, frozen=True, kw_only=True):
    """Where the static key is; the settings never hold the key itself."""

    file: Text | None = None
    """File with the static key; the environment (MOBULA_API_KEY, MOBULA_API_KEY_FILE) wins."""


class TokenSettings(Section, frozen=True, kw_only=True):
    """The tokens that the proxy mints."""

    expires_in: Annotated[float, duration("1m", "24h")] = 3600.0
    """Lifetime to ask for; Mobula allows 1m to 24h."""
    request_limit: Annotated[int, Meta(ge=1, le=1_000_000)] = 5000
    """Requests to ask for in each token; Mobula allows 1 to 1000000."""
    standby: Annotated[int, Meta(ge=0, le=24)] = 1
    """Spare tokens to keep in stock beside the current one."""
    on_exit: Literal["revoke", "keep"] = "revoke"
    """Whether our tokens are revoked when the proxy ends."""
    orphans: Literal["revoke", "keep"] = "revoke"
    """Whether tokens that we left behind when we crashed are revoked at start."""
    inspect_every: Annotated[float, duration("1m")] = 600.0
    """How often what Mobula counted for a token is compared with what we did."""
    wait: Duration = 10.0
    """How long a request may wait for a token before it gets 503."""
    waiters: Annotated[int, Meta(ge=1)] = 1024
    """How many requests may wait for a token at once; one more gets 503 straight away."""


class UpstreamSettings(Section, frozen=True, kw_only=True):
    """One API that requests go to."""

    # Empty only before `Settings` has filled in the name, which a reader never sees.
    url: HttpUrl = ""
    """Where requests go: https://host[:port][/prefix]; https:// and the name when left out."""
    address: IpAddress = None
    """IP address to connect to, whatever the url's host resolves to."""
    ca_file: Text | None = None
    """PEM file of certificate authorities to trust instead of the system's."""
    connections: Annotated[int, Meta(ge=1)] = 256
    """Connections open at once, busy and idle together."""
    queue: Annotated[int, Meta(ge=0)] = 1024
    """Requests that may wait for a connection; one more gets 503."""
    queue_timeout: Duration = 10.0
    """How long a request may wait for a connection before it gets 503."""
    connect_timeout: Duration = 5.0
    """How long name lookup, connect and TLS handshake may take together."""
    head_timeout: Duration = 60.0
    """How long the head of an answer may take once the request is sent."""
    idle_timeout: Duration = 60.0
    """How long an answer's or an upload's body may stand still."""
    keepalive: Duration = 15.0
    """How long an unused connection is kept; an upstream's own Keep-Alive timeout shortens it."""
    max_age: Duration = 300.0
    """How long a connection is used at all, so that DNS changes are noticed."""
    head_bytes: Size = 65536
    """Size of an answer's head."""
    insecure: bool = False
    """Whether http:// to another machine is meant: the static key and tokens travel in clear."""

    @classmethod
    def clashes(cls, good: Mapping[str, Any]) -> Iterator[Finding]:
        url, address = good.get("url", ""), good.get("address")
        if good.get("insecure") is False and travels_in_clear(url, address):
            yield Finding(
                ("url",),
                "the static key and tokens would travel in clear; use https://, "
                "or set insecure: true beside it if you mean it",
            )


def _reached(value: object) -> object:
    if value not in (None, "tunnel", "deny"):
        raise Wrong("must be tunnel or deny, or null for what fits the address")
    return value


Reached = Annotated[
    Literal["tunnel", "deny"] | None,
    Leaf(_reached, {"enum": ["tunnel", "deny", None]}),
]


class ListenerTlsSettings(Section, frozen=True, kw_only=True):
    """With what a reverse listener speaks TLS; its files are read again when they change."""

    certificate_file: Text | None = None
    """PEM file of the certificate, and of those between it and its authority; null: no TLS."""
    key_file: Text | None = None
    """PEM file of the certificate's private key."""
    client_ca_file: Text | None = None
    """PEM file of the authorities whose client certificates are taken; null: none are asked for."""

    @classmethod
    def clashes(cls, good: Mapping[str, Any]) -> Iterator[Finding]:
        if good.keys() >= set(cls.__struct_fields__):
            certificate, key, authorities = (good[each] for each in cls.__struct_fields__)
            if certificate and not key:
                yield Finding(("key_file",), "is needed beside certificate_file")
            if key and not certificate:
                yield Finding(("certificate_file",), "is needed beside key_file")
            if authorities and not (certificate or key):
                text = "is of use only with TLS; set certificate_file and key_file beside it"
                yield Finding(("client_ca_file",), text)


_NO_TLS = ListenerTlsSettings()


class ServiceAccountSettings(Section, frozen=True, kw_only=True):
    """How tokens of Kubernetes ServiceAccounts are checked: the API server is asked whose they are.

    It takes a ServiceAccount of our own that may create TokenReviews, as system:auth-delegator may.
    """

    audience: Text = "mobula-proxy"
    """What tokens must be meant for, so that one for another service is worth nothing here."""
    url: HttpUrl = "https://kubernetes.default.svc"
    """Where the API server is; never reached through upstream_proxy, and found by the system."""
    ca_file: Text = f"{POD_CREDENTIALS}/ca.crt"
    """PEM file of the certificate authorities that may vouch for the API server, and no others."""
    token_file: Text = f"{POD_CREDENTIALS}/token"
    """File with our own ServiceAccount's token; it is read again as Kubernetes renews it."""
    review_every: Annotated[float, duration("1s", "1h")] = 60.0
    """How long an answer is good; it stands for longer while the API server cannot be asked."""

    @classmethod
    def clashes(cls, good: Mapping[str, Any]) -> Iterator[Finding]:
        if travels_in_clear(good.get("url", ""), None):
            yield Finding(("url",), "the tokens of apps would travel in clear; use https://")


class ListenerSettings(Section, frozen=True, kw_only=True):
    """One address that apps send their requests to."""

    bind: Bind
    """Where to listen: host:port, [v6]:port or unix:/path; port 0 takes a free one."""
    mode: Literal["reverse", "forward", "tls"] = "reverse"
    """How apps reach it: reverse, as if it were the API; forward, as their HTTP proxy; tls, as the
    API itself, by its name and with a certificate of the local CA."""
    # Empty only before `Settings` has named the first upstream, which a reader never sees.
    upstream: Text = ""
    """Name of the upstream of requests that name none; the first one when left out."""
    # Null on a forward listener only before `Settings` has filled them in.
    other_hosts: Reached = None
    """Of a forward listener: tunnel or deny hosts that are no upstream; on loopback tunnel."""
    private_hosts: Reached = None
    """Of a forward listener that tunnels: whether to private addresses too; on loopback tunnel."""
    authenticate: bool = False
    """Whether only those in clients, or in clients_file, are served."""
    tls: ListenerTlsSettings = _NO_TLS
    """TLS that a reverse listener speaks for itself."""
    insecure: bool = False
    """Whether other machines may connect: they could use the static key without being asked."""

    @classmethod
    def clashes(cls, good: Mapping[str, Any]) -> Iterator[Finding]:
        is_open = good.get("insecure") is False and good.get("authenticate") is False
        if is_open and "bind" in good and not good["bind"].is_loopback:
            yield Finding(
                ("bind",),
                "other machines could spend your tokens, because clients are not authenticated; "
                "set authenticate: true beside it, bind 127.0.0.1, [::1] or unix:/path, "
                "or set insecure: true if you mean it",
            )
        tls = good.get("tls", _NO_TLS)
        if tls != _NO_TLS and good.get("mode", "reverse") != "reverse":
            yield Finding(("tls",), "is for listeners of mode reverse only")
        elif tls.client_ca_file and good.get("authenticate") is False:
            text = "keeps nobody out by itself; set authenticate: true on the listener"
            yield Finding(("tls", "client_ca_file"), text)
        for name in ("other_hosts", "private_hosts"):
            if good.get(name) and good.get("mode", "forward") != "forward":
                yield Finding((name,), "is for listeners of mode forward only")


def _completed(each: ListenerSettings, first: str) -> ListenerSettings:
    each = replace(each, upstream=each.upstream.lower() or first)
    if each.mode != "forward":
        return each
    usual: Literal["tunnel", "deny"] = "tunnel" if each.bind.is_loopback else "deny"
    return replace(
        each,
        other_hosts=each.other_hosts or usual,
        private_hosts=each.private_hosts or usual,
    )


class AdminSettings(Section, frozen=True, kw_only=True):
    """The address for operators: health, metrics, status and controls."""

    bind: Bind = Address("127.0.0.1", 9090)
    """Where to listen: host:port, [v6]:port or unix:/path; port 0 takes a free one."""


class StoreSecretSettings(Section, frozen=True, kw_only=True):
    """Where the secret is that seals what the store keeps; the static key does without one."""

    file: Text | None = None
    """File with it; the environment (MOBULA_STORE_SECRET, MOBULA_STORE_SECRET_FILE) wins."""


class StoreSettings(Section, frozen=True, kw_only=True):
    """Where tokens are kept, and who shares them."""

    # Without a text only before `Settings` has filled it in, which a reader never sees.
    url: AnyStoreUrl = StoreUrl()
    """memory://, sqlite:///path or redis://host:port; memory:// when left out, and no state_dir."""
    secret: StoreSecretSettings = StoreSecretSettings()
    """Of the whole fleet; it is needed where there is no static key, which seals without one."""
    on_outage: Literal["local", "stop"] = "local"
    """Without the store: local spends what is in hand, then mints alone; stop gives 503 then."""


class CaSettings(Section, frozen=True, kw_only=True):
    """Where the local certificate authority is, whose certificates apps are shown."""

    dir: Directory = None
    """Directory of its key and certificate; ca in state_dir, or in the user's state directory."""
    public_dir: Directory = None
    """Directory for what apps read, ca.pem and its relatives; dir when left out."""


class LimitSettings(Section, frozen=True, kw_only=True):
    """What clients may send, how slowly, and how much of the proxy they may hold."""

    header_bytes: Size = 32 * 1024
    """Size of a request's whole header block; more gets 431."""
    header_count: Annotated[int, Meta(ge=1)] = 128
    """Header fields in a request; more gets 431."""
    target_bytes: Size = 8 * 1024
    """Size of a request's target; more gets 414."""
    body_bytes: Size = 1024**3
    """Size of a request's body; more gets 413."""
    replay_bytes: Size = 64 * 1024
    """How much of a request's body is kept so that it can be sent again."""
    connections: Annotated[int, Meta(ge=1)] = 10_000
    """Client connections open at once, over all listeners; one more gets 503."""
    requests: Annotated[int, Meta(ge=1)] = 4096
    """Requests being served at once, over all listeners; one more gets 503."""
    header_timeout: Duration = 10.0
    """How long a request's head may take from its first byte; longer gets 408."""
    body_timeout: Duration = 30.0
    """How long a request's body may stand still; longer gets 408."""
    client_idle_timeout: Duration = 75.0
    """How long a connection may be unused, and a client may take nothing of its answer."""
    min_rate: Size = 240
    """Bytes a second that a client must send of a body, or take of an answer, on average."""
    total_timeout: OptionalDuration = None
    """How long a request may take in all, its answer included; longer gets 504. null: any time."""
    message_bytes: Size = 4 * 1024 * 1024
    """Size of a WebSocket message, either way; a longer one closes it, with 1009 or 1011."""
    message_timeout: Duration = 600.0
    """How long a WebSocket may be without a message or a ping; longer closes it with 1001."""
    tunnel_timeout: Duration = 600.0
    """How long nothing may pass through a tunnel to another host before it is ended."""


class ShutdownSettings(Section, frozen=True, kw_only=True):
    """How the proxy ends."""

    drain: Duration = 20.0
    """How long requests in flight may go on after SIGTERM."""
    revoke: Annotated[float, duration("1ms", "30s")] = 3.0
    """How long giving shares back and revoking tokens at exit may take; at most 30s."""
    exit_zero_on_sigterm: bool = False
    """Whether an end by SIGTERM exits with 0 instead of 143."""


class LogSettings(Section, frozen=True, kw_only=True):
    """What is logged; it goes to standard error."""

    format: Literal["auto", "pretty", "json"] = "auto"
    """Form of the lines: auto is pretty on a terminal and json elsewhere."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    access: bool = False
    """Whether each request gets a line."""


class Settings(Section, frozen=True, kw_only=True):
    """All settings of mobula-proxy; every one has a default, so an empty file is a good one."""

    role: Literal["both", "minter", "member"] = "both"
    """Whether it mints and serves apps, only mints, or only serves and needs no static key."""
    state_dir: Directory = None
    """Directory for what must survive a restart: store and CA, unless they have their own place."""
    api_key: ApiKeySettings = ApiKeySettings()
    token: TokenSettings = TokenSettings()
    resolver: Literal["system", "dns"] = "system"
    """How names become addresses: as the system does it, or by asking name servers only."""
    nameservers: NameServers = ()
    """IP addresses of name servers to ask, with or without a port; else those of the system."""
    upstream_proxy: OptionalProxyUrl = None
    """http://[user:password@]host:port of the proxy that leads out of this network, if any."""
    upstreams: dict[UpstreamName, UpstreamSettings] = field(
        default_factory=lambda: {name: UpstreamSettings() for name in MOBULA_HOSTS}
    )
    """By the host (and port) that clients ask for; when left out, all that Mobula has. The first is
    the default one, and mints."""
    listeners: tuple[ListenerSettings, ...] = (ListenerSettings(bind=Address("127.0.0.1", 8080)),)
    """Where apps send their requests; a list from a later source replaces the whole list."""
    clients: Clients = field(default_factory=dict)
    """Who may use listeners that authenticate, by name."""
    clients_file: Text | None = None
    """YAML file with more clients, by name, which is read again when it changes."""
    service_accounts: ServiceAccountSettings = ServiceAccountSettings()
    admin: AdminSettings = AdminSettings()
    store: StoreSettings = StoreSettings()
    ca: CaSettings = CaSettings()
    limits: LimitSettings = LimitSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    log: LogSettings = LogSettings()

    def __post_init__(self) -> None:
        """Complete what depends on others: urls and upstreams on names, places on state_dir."""
        upstreams = {
            name: replace(each, url=each.url or f"https://{name}")
            for name, each in self.upstreams.items()
        }
        force_setattr(self, "upstreams", upstreams)
        first = next(iter(self.upstreams), "")
        listeners = tuple(_completed(each, first) for each in self.listeners)
        force_setattr(self, "listeners", listeners)
        url = _store_url(self.store.url, self.state_dir)
        force_setattr(self, "store", replace(self.store, url=url))
        if self.state_dir and not self.ca.dir:
            force_setattr(self, "ca", replace(self.ca, dir=str(Path(self.state_dir, CA_DIR))))

    @classmethod
    def clashes(cls, good: Mapping[str, Any]) -> Iterator[Finding]:
        """Check the listeners against upstreams and addresses, and the role against the store."""
        listeners, names = good.get("listeners", ()), list(good.get("upstreams", ()))
        for index, name in enumerate(each.upstream.lower() for each in listeners):
            if names and name and name not in names:
                yield Finding(("listeners", index, "upstream"), _no_such_upstream(name, names))
        binds: list[tuple[SettingPath, Address]] = [
            (("listeners", index, "bind"), each.bind) for index, each in enumerate(listeners)
        ]
        if "admin" in good:
            binds.append((("admin", "bind"), good["admin"].bind))
        yield from _shared(binds)
        yield from _unequal(good)
        if good.get("nameservers") and good.get("resolver") == "system":
            yield Finding(("nameservers",), "are asked only with resolver: dns; set that beside it")
        for name, each in good.get("upstreams", {}).items():
            if each.address and (why := _why_unused(each.url or name, good.get("upstream_proxy"))):
                yield Finding(("upstreams", name, "address"), f"{why}; leave one of them out")
        if {"role", "state_dir", "store"} <= good.keys():
            yield from _lonely(good["role"], _store_url(good["store"].url, good["state_dir"]))


def _store_url(url: StoreUrl, state_dir: str | None) -> StoreUrl:
    if url:
        return url
    return StoreUrl.of_file(str(Path(state_dir, STORE_FILE))) if state_dir else MEMORY


def _lonely(role: str, url: StoreUrl) -> Iterator[Finding]:
    lacks = {"member": "nobody could mint for it", "minter": "there is nobody to mint for"}
    if role in lacks and url.in_memory:
        yield Finding(
            ("role",),
            f"{lacks[role]}, because other processes cannot reach memory://; set store.url, "
            "e.g. to redis://host:6379/0",
        )


def _unequal(good: Mapping[str, Any]) -> Iterator[Finding]:
    """Find clients that no listener asks for, and listeners that would let nobody in."""
    if not good.keys() >= {"listeners", "clients", "clients_file", "role"}:
        return
    yield from ambiguous(good["clients"])
    asking = [index for index, each in enumerate(good["listeners"]) if each.authenticate]
    if asking and not (good["clients"] or good["clients_file"]):
        text = "would let nobody in; name them in clients or clients_file"
        yield Finding(("listeners", asking[0], "authenticate"), text)
    for name in ("clients", "clients_file"):
        if good[name] and not asking and good["role"] != "minter":
            text = "are asked for by no listener; set authenticate: true on one, or leave them out"
            yield Finding((name,), text)


def _shared(binds: Sequence[tuple[SettingPath, Address]]) -> Iterator[Finding]:
    taken: dict[Address, SettingPath] = {}
    for path, bind in binds:
        if bind in taken:
            text = f"must differ from {full_name(taken[bind])}, which is {bind} too"
            yield Finding(path, text)
        elif bind.path or bind.port:  # port 0 is a new port each time
            taken[bind] = path


def _why_unused(url: str, upstream_proxy: ProxyUrl | None) -> str:
    """Say why an upstream's fixed address would not be used, or return nothing."""
    if upstream_proxy is not None:
        return "cannot be chosen with upstream_proxy, which looks up names itself"
    return "is not needed where the url has an IP address" if names_an_address(url) else ""


def _no_such_upstream(name: str, names: Sequence[str]) -> str:
    near = nearest(name, names)
    hint = f"did you mean {near}?" if near else f"known: {one_of(names)}"
    return f"no such upstream; {hint}"


def load(
    *,
    file: Path | None,
    environ: Mapping[str, str],
    overrides: Sequence[tuple[str, str]],
    usual: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {},
) -> Settings:
    """Return the settings that the sources give, each later one over the earlier.

    `overrides` are the key and the value of each `--set`, in order. `usual` is told all that is set
    and returns what to take for the rest, in place of its default. Raises SettingsError with every
    problem at once: first all that cannot be read, else all that is wrong.
    """
    tree = read(file, environ, overrides)
    tree.fill(usual(tree.values))
    parsed = parse(Settings, tree.values)
    if isinstance(parsed, Settings):
        return _at_home(parsed, environ)
    raise SettingsError([tree.problem(path, text, show=show) for path, text, show in parsed])


def _at_home(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Put what has no place yet, and wants one, into the user's state directory."""
    home = user_state_dir(environ)
    if settings.ca.dir or home is None:
        return settings
    return replace(settings, ca=replace(settings.ca, dir=str(home / CA_DIR)))


def effective(settings: Settings) -> str:
    """Return the settings as YAML in human units; as a file it loads to equal settings.

    Only where `store.url` holds credentials it does not: they are left out.
    """
    text: str = yaml.safe_dump(plain(Settings, settings), sort_keys=False, allow_unicode=True)
    return text


def json_schema() -> str:
    """Return the JSON Schema (2020-12) of the settings file, the same text each time."""
    from proxy.settings.schema import describe  # noqa: PLC0415 - no proxy that serves needs it

    return describe(Settings, title="mobula-proxy settings")


if __name__ == "__main__":
    sys.stdout.write(json_schema())
