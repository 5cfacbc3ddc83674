"""The settings: YAML file, then environment, then flags; parsed once into frozen models.

No module below `app` sees the whole; each gets its own section. Durations are seconds and sizes
are bytes in the models, and human text (`1h`, `64KiB`) in every source.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.config import JsonDict
from pydantic.json_schema import GenerateJsonSchema

from proxy.settings.places import Address, Bind, HttpUrl, UpstreamName, travels_in_clear
from proxy.settings.problems import Problem, SettingsError, explain, nearest, one_of
from proxy.settings.sources import read
from proxy.settings.values import (
    Count,
    Duration,
    Flag,
    SettingPath,
    Size,
    Text,
    Wrong,
    within,
)

__all__ = [
    "Address",
    "AdminSettings",
    "ApiKeySettings",
    "LimitSettings",
    "ListenerSettings",
    "LogSettings",
    "Problem",
    "Settings",
    "SettingsError",
    "ShutdownSettings",
    "StoreSettings",
    "TokenSettings",
    "UpstreamSettings",
    "effective",
    "json_schema",
    "load",
]


class Section(BaseModel):
    """Base of every section: complete, frozen, and without unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class ApiKeySettings(Section):
    """Where the static key is; the settings never hold the key itself."""

    file: Text | None = None
    """File with the static key; the environment (MOBULA_API_KEY, MOBULA_API_KEY_FILE) wins."""


class TokenSettings(Section):
    """The tokens that the proxy mints."""

    expires_in: Annotated[Duration, within("1m", "24h")] = 3600.0
    """Lifetime to ask for; Mobula allows 1m to 24h."""
    request_limit: Count = Field(default=5000, ge=1, le=1_000_000)
    """Requests to ask for in each token; Mobula allows 1 to 1000000."""
    standby: Count = Field(default=1, ge=0, le=24)
    """Spare tokens to keep in stock beside the current one."""
    on_exit: Literal["revoke", "keep"] = "revoke"
    """Whether our tokens are revoked when the proxy ends."""
    wait: Duration = 10.0
    """How long a request may wait for a token before it gets 503."""
    waiters: Count = Field(default=1024, ge=1)
    """How many requests may wait for a token at once; one more gets 503 straight away."""


class UpstreamSettings(Section):
    """One API that requests go to."""

    url: HttpUrl
    """Where requests go: https://host[:port][/prefix]; http:// only to this machine."""
    ca_file: Text | None = None
    """PEM file of certificate authorities to trust instead of the system's."""
    connections: Count = Field(default=256, ge=1)
    """Connections open at once, busy and idle together."""
    queue: Count = Field(default=1024, ge=0)
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
    insecure: Flag = Field(default=False, validate_default=True)
    """Whether http:// to another machine is meant: the static key and tokens travel in clear."""

    @field_validator("insecure")
    @classmethod
    def _secrets_stay_encrypted(cls, insecure: bool, info: ValidationInfo) -> bool:
        if not insecure and travels_in_clear(info.data.get("url", "")):
            raise Wrong.because(
                "the static key and tokens would travel in clear; use https://, "
                "or set insecure: true beside it if you mean it",
                sibling="url",
            )
        return insecure


def _served_mode(mode: object) -> object:
    if mode in ("forward", "tls"):
        raise Wrong.because("must be reverse; this version does not serve forward or tls yet")
    return mode


def _hide_default(schema: JsonDict) -> None:
    del schema["default"]


class ListenerSettings(Section):
    """One address that apps send their requests to."""

    bind: Bind
    """Where to listen: host:port, [v6]:port or unix:/path; port 0 takes a free one."""
    mode: Annotated[Literal["reverse"], BeforeValidator(_served_mode)] = "reverse"
    """How apps reach it: reverse, as if it were the API itself."""
    # Empty only before `Settings` has named the first upstream, which a reader never sees.
    upstream: Annotated[Text, AfterValidator(str.lower)] = Field(
        default="", json_schema_extra=_hide_default
    )
    """Name of the upstream that requests go to; the first one when left out."""
    insecure: Flag = Field(default=False, validate_default=True)
    """Whether other machines may connect: they could use the static key without being asked."""

    @field_validator("insecure")
    @classmethod
    def _only_this_machine_connects(cls, insecure: bool, info: ValidationInfo) -> bool:
        bind = info.data.get("bind")
        if not insecure and bind and not bind.is_loopback:
            raise Wrong.because(
                "other machines could spend your tokens, because clients are not authenticated; "
                "bind 127.0.0.1, [::1] or unix:/path, "
                "or set insecure: true beside it if you mean it",
                sibling="bind",
            )
        return insecure


class AdminSettings(Section):
    """The address for operators: health, metrics, status and the page."""

    bind: Bind = Address("127.0.0.1", 9090)
    """Where to listen: host:port, [v6]:port or unix:/path; port 0 takes a free one."""


def _known_store(url: object) -> object:
    if isinstance(url, str) and url != "memory://":
        raise Wrong.because("must be memory://; this version keeps tokens in memory only")
    return url


class StoreSettings(Section):
    """Where tokens are kept."""

    url: Annotated[Literal["memory://"], BeforeValidator(_known_store)] = "memory://"
    """memory:// keeps tokens in this process and forgets them when it ends."""


class LimitSettings(Section):
    """What a client may send, and how slowly."""

    header_bytes: Size = 32 * 1024
    """Size of a request's whole header block; more gets 431."""
    header_count: Count = Field(default=128, ge=1)
    """Header fields in a request; more gets 431."""
    target_bytes: Size = 8 * 1024
    """Size of a request's target; more gets 414."""
    replay_bytes: Size = 64 * 1024
    """How much of a request's body is kept so that it can be sent again."""
    client_idle_timeout: Duration = 75.0
    """How long a client's connection may be idle, and a request's head may take."""
    body_timeout: Duration = 30.0
    """How long a request's body may stand still; longer gets 408."""


class ShutdownSettings(Section):
    """How the proxy ends."""

    drain: Duration = 20.0
    """How long requests in flight may go on after SIGTERM."""
    revoke: Annotated[Duration, within("1ms", "30s")] = 3.0
    """How long revoking tokens at exit may take; at most 30s."""
    exit_zero_on_sigterm: Flag = False
    """Whether an end by SIGTERM exits with 0 instead of 143."""


class LogSettings(Section):
    """What is logged; it goes to standard error."""

    format: Literal["auto", "pretty", "json"] = "auto"
    """Form of the lines: auto is pretty on a terminal and json elsewhere."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    access: Flag = False
    """Whether each request gets a line."""


_DEFAULT_UPSTREAM = "api.mobula.io"
_DEFAULT_URL = "https://api.mobula.io"
_DEFAULT_BIND = "127.0.0.1:8080"


class Settings(Section):
    """All settings of mobula-proxy; every one has a default, so an empty file is a good one."""

    api_key: ApiKeySettings = Field(default_factory=ApiKeySettings)
    token: TokenSettings = Field(default_factory=TokenSettings)
    upstreams: dict[UpstreamName, UpstreamSettings] = Field(
        default={_DEFAULT_UPSTREAM: UpstreamSettings(url=_DEFAULT_URL)},
        min_length=1,
        json_schema_extra={
            "default": {_DEFAULT_UPSTREAM: {"url": _DEFAULT_URL}},
            "additionalProperties": False,  # beside the pattern of names, which alone refuses none
        },
    )
    """By the host (and port) that clients ask for. The first is the default one, and mints."""
    listeners: tuple[ListenerSettings, ...] = Field(
        default=(ListenerSettings(bind=Address.parse(_DEFAULT_BIND)),),
        min_length=1,
        validate_default=True,
        json_schema_extra={"default": [{"bind": _DEFAULT_BIND, "mode": "reverse"}]},
    )
    """Where apps send their requests; a list from a later source replaces the whole list."""
    admin: AdminSettings = Field(default_factory=AdminSettings, validate_default=True)
    store: StoreSettings = Field(default_factory=StoreSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @field_validator("upstreams", mode="before")
    @classmethod
    def _names_differ(cls, upstreams: object) -> object:
        """Refuse names that are one in lower case: the last would silently replace the first."""
        names = list(upstreams) if isinstance(upstreams, dict) else []
        lowered = [str(name).lower() for name in names]
        twice = [name for i, name in enumerate(names) if lowered[i] in lowered[:i]]
        if twice:
            raise Wrong(*(((name,), "is named twice; case makes no difference") for name in twice))
        return upstreams

    @field_validator("listeners")
    @classmethod
    def _listeners_fit(
        cls, listeners: tuple[ListenerSettings, ...], info: ValidationInfo
    ) -> tuple[ListenerSettings, ...]:
        """Check the listeners against each other and the upstreams, and name every upstream."""
        names = list(info.data.get("upstreams", ()))
        wrong = [*_unknown_upstreams(listeners, names), *_taken_binds(listeners)]
        if wrong:
            raise Wrong(*wrong)
        first = names[0] if names else ""
        return tuple(
            listener if listener.upstream else listener.model_copy(update={"upstream": first})
            for listener in listeners
        )

    @field_validator("admin")
    @classmethod
    def _admin_is_apart(cls, admin: AdminSettings, info: ValidationInfo) -> AdminSettings:
        binds = [listener.bind for listener in info.data.get("listeners", ())]
        if _is_fixed(admin.bind) and admin.bind in binds:
            raise Wrong((("bind",), _taken(admin.bind, binds)))
        return admin


def _unknown_upstreams(
    listeners: Sequence[ListenerSettings], names: Sequence[str]
) -> list[tuple[SettingPath, str]]:
    """Find the upstreams that are not there; none when the upstreams themselves are wrong."""
    return [
        ((index, "upstream"), _no_such_upstream(listener.upstream, names))
        for index, listener in enumerate(listeners)
        if names and listener.upstream and listener.upstream not in names
    ]


def _no_such_upstream(name: str, names: Sequence[str]) -> str:
    near = nearest(name, names)
    hint = f"did you mean {near}?" if near else f"known: {one_of(names)}"
    return f"no such upstream; {hint}"


def _taken_binds(listeners: Sequence[ListenerSettings]) -> list[tuple[SettingPath, str]]:
    binds = [listener.bind for listener in listeners]
    return [
        ((index, "bind"), _taken(bind, binds))
        for index, bind in enumerate(binds)
        if _is_fixed(bind) and bind in binds[:index]
    ]


def _taken(bind: Address, binds: Sequence[Address]) -> str:
    return f"must differ from listeners[{binds.index(bind)}].bind, which is {bind} too"


def _is_fixed(bind: Address) -> bool:
    """Whether two sockets would clash there; port 0 is a new port each time."""
    return bool(bind.path or bind.port)


def load(
    *, file: Path | None, environ: Mapping[str, str], overrides: Sequence[tuple[str, str]]
) -> Settings:
    """Return the settings that the sources give, each later one over the earlier.

    `overrides` are the key and the value of each `--set`, in order. Raises SettingsError with every
    problem at once: first all that cannot be read, else all that is wrong.
    """
    tree = read(file, environ, overrides)
    try:
        return Settings.model_validate(tree.values)
    except ValidationError as error:
        findings = list(explain(error, Settings))
    # Outside the handler: pydantic's error, which holds the values, is not this one's context.
    raise SettingsError([tree.problem(path, text, show=show) for path, text, show in findings])


def effective(settings: Settings) -> str:
    """Return the settings as YAML in human units; as a file it loads to equal settings."""
    text: str = yaml.safe_dump(
        settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True
    )
    return text


class _SchemaGenerator(GenerateJsonSchema):
    """Leaves out a title for each field: it only repeats the name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's hook
        return False


def json_schema() -> str:
    """Return the JSON Schema (2020-12) of the settings file, the same text each time."""
    schema = Settings.model_json_schema(schema_generator=_SchemaGenerator)
    _write_human_defaults(schema["$defs"])
    head = {"$schema": GenerateJsonSchema.schema_dialect, "title": "mobula-proxy settings"}
    return json.dumps(head | schema | head, indent=2) + "\n"


def _write_human_defaults(definitions: dict[str, Any]) -> None:
    """Put `1h` for 3600.0: pydantic writes the defaults of a schema to be read as they are held."""
    settings = Settings()
    sections = [value for _, value in settings if isinstance(value, Section)]
    for section in [*sections, *settings.upstreams.values(), *settings.listeners]:
        properties = definitions[type(section).__name__]["properties"]
        for name, value in section.model_dump(mode="json").items():
            if "default" in properties[name]:
                properties[name]["default"] = value


if __name__ == "__main__":
    sys.stdout.write(json_schema())
