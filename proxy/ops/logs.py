"""The log: structlog to standard error, pretty on a terminal and JSON elsewhere.

The rooms say what happened as events and facts, and here they become lines. Beside them only `app`
and, for failures of our own, the servers write to it.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar, TextIO

import structlog

from proxy.config import MOBULA_DOMAIN, LogSettings
from proxy.errors import (
    AuthorityNotTrusted,
    ClientCertificateRefused,
    ClientReviewUnavailable,
    ClientUnknown,
    HandshakeFailed,
    ServerNameUnknown,
)
from proxy.tokens.events import (
    Drifted,
    Event,
    KeyChanged,
    KeyUnreadable,
    Minted,
    MintFailed,
    OrphanFound,
    Quarantined,
    Revoked,
    Rotated,
    StoreFound,
    StoreLost,
    StrangeShelves,
    Unsealable,
)
from proxy.traffic.fact import OTHER_HOSTS, Fact

WARN_AGAIN_SECONDS = 60.0
"""A warning that each request could repeat is logged once in this time for each place."""


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send our log lines, and those of libraries, to `stream` (standard error) in one form."""
    out = stream or sys.stderr
    pretty = settings.format == "pretty" or (settings.format == "auto" and out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: structlog.typing.Processor = (
        # Its own choice of tracebacks would show local variables, secrets among them.
        structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if pretty
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
    )
    handler = logging.StreamHandler(out)
    before_render: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
    ]
    if not pretty:
        before_render.append(structlog.processors.format_exc_info)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[*before_render, render]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())


class TokenLog:
    """Observer of tokens: one line for each mint and each rotation, with the reason."""

    def __init__(self) -> None:
        self._log: Any = structlog.get_logger("mobula_proxy.tokens")

    def __call__(self, event: Event) -> None:
        match event:
            case Minted(count, need, seconds, unreadable):
                self._log.info(
                    "tokens minted", count=count, reason=need.value, seconds=round(seconds, 3)
                )
                for problem in unreadable:
                    self._log.warning("mint answer partly unreadable", problem=problem)
            case MintFailed(fault, retry_in, covered):
                say = self._log.warning if covered else self._log.error
                rounded = None if retry_in is None else round(retry_in, 1)
                say("mint failed", reason=fault.detail, retry_in=rounded)
            case Rotated(token_id, reason):
                self._log.info("token rotated", token_id=token_id, reason=reason.value)
            case Quarantined(token_id, standing):
                self._log.warning("token quarantined", token_id=token_id, standing=standing.value)
            case Drifted(token_id, requests):
                self._log.warning(
                    "Mobula counted more than we", token_id=token_id, requests=requests
                )
            case Revoked(token_id, ok):
                self._log.info("token revoked", token_id=token_id, confirmed=ok)
            case KeyChanged(fingerprint):
                self._log.info("static key changed", fingerprint=fingerprint)
            case KeyUnreadable(detail):
                self._log.warning("static key unreadable, the last one stays", reason=detail)
            case StoreLost(place, detail, reach):
                self._log.error("store lost", store=place, reason=detail, meanwhile=reach.value)
            case StoreFound(place, seconds, sharers, emptied):
                self._log.info(
                    "store joined",
                    store=place,
                    after=round(seconds, 3),
                    sharers=sharers,
                    emptied=emptied,
                )
            case StrangeShelves(place, count):
                self._log.warning(
                    "the store has tokens that are sealed with another key or secret; they are "
                    "left alone, and it is taken to be empty",
                    store=place,
                    shelves=count,
                )
            case Unsealable(token_id):
                self._log.warning("a token in the store cannot be opened", token_id=token_id)
            case OrphanFound(token_id, revoked):
                self._log.warning(
                    "a token was left behind by a creation call that broke off",
                    token_id=token_id,
                    revoked=revoked,
                )


class TrafficLog:
    """Observer of requests: warns of what an operator should know of, each once a minute."""

    KEY_PLACES = frozenset({"query", "path", "header"})
    """Where no app should put a static key."""
    TURNED_AWAY: ClassVar = {
        AuthorityNotTrusted.code: "a client does not trust the local CA: have it trust the file "
        "that `mobula-proxy ca path` names",
        ServerNameUnknown.code: "a client asks for TLS with a name that is no upstream's",
        HandshakeFailed.code: "a client broke TLS off; it may not trust who answers",
        ClientCertificateRefused.code: "a client's certificate was refused: it must be valid, and "
        "of an authority in the listener's tls.client_ca_file",
        ClientUnknown.code: "a client was refused, because it showed no credential that is known",
        ClientReviewUnavailable.code: "a ServiceAccount token cannot be checked now",
    }

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._log: Any = structlog.get_logger("mobula_proxy.traffic")
        self._quiet_until: dict[str, float] = {}

    def __call__(self, fact: Fact) -> None:
        for place in fact.stripped:
            # A client may show its own credential as a parameter.
            if place in self.KEY_PLACES and not (fact.client and place == "query"):
                event = "a static key was taken out of a request"
                self._warn(place, event, place=place, path=fact.path)
        if fact.code in self.TURNED_AWAY:
            self._warn(fact.code, self.TURNED_AWAY[fact.code], upstream=fact.upstream)
        if fact.upstream == OTHER_HOSTS and fact.method == "CONNECT":
            host = fact.path.rpartition(":")[0]
            if host.endswith(f".{MOBULA_DOMAIN}"):
                event = "calls to a host of Mobula pass by in a tunnel, because it is no upstream"
                self._warn(OTHER_HOSTS, event, host=host)

    def _warn(self, kind: str, event: str, **details: str) -> None:
        """Say it, unless one of its kind was said within the last minute."""
        now = self._clock()
        if now >= self._quiet_until.get(kind, now):
            self._quiet_until[kind] = now + WARN_AGAIN_SECONDS
            self._log.warning(event, **details)


class AccessLog:
    """Observer of requests: one line for each, when switched on."""

    def __init__(self) -> None:
        self._log: Any = structlog.get_logger("mobula_proxy.access")

    def __call__(self, fact: Fact) -> None:
        self._log.info(
            "request",
            upstream=fact.upstream,
            client=fact.client or None,
            method=fact.method,
            path=fact.path,
            status=fact.status,
            code=fact.code or None,
            attempts=fact.attempts,
            ms=round(fact.seconds * 1000, 1),
            complete=fact.complete,
        )
