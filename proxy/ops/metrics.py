"""What happened, counted for Prometheus. Names begin with `mobula_proxy_`; units are base units."""

import asyncio
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.tokens.events import (
    Drifted,
    Event,
    KeyChanged,
    Minted,
    MintFailed,
    OrphanFound,
    Quarantined,
    Revoked,
    Rotated,
    StoreLost,
)
from proxy.tokens.model import PoolSnapshot, Reach
from proxy.tokens.sharing import SharingSnapshot
from proxy.traffic.fact import Fact
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.upstream import UpstreamSnapshot

CONTENT_TYPE = CONTENT_TYPE_LATEST
SWITCHING = 101
UNTIMED = ("", "CONNECT")
TOKEN_STATES = ("current", "standby", "set_aside", "quarantined")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Observer of requests and of tokens."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._requests = self._counter(
            "requests", "Requests answered; status 0: the client left.", "upstream", "status"
        )
        self._seconds = Histogram(
            "mobula_proxy_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ["upstream"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._client_requests = self._counter(
            "client_requests", "Requests of each client that was recognised.", "client", "status"
        )
        self._client_refusals = self._counter(
            "client_refusals", "Answers and Closes that we made, by client.", "client", "code"
        )
        self._errors = self._counter("errors", "Answers and Closes that we made.", "code")
        self._broken = self._counter("broken_answers", "Answers that broke off.", "upstream")
        self._resends = self._counter("resends", "Requests sent once more.", "upstream")
        self._stripped = self._counter(
            "stripped_keys", "Credentials taken out of requests.", "place"
        )
        self._mints = self._counter("mints", "Creation calls.", "result")
        self._minted = self._counter("minted_tokens", "Tokens that creation calls gave.")
        self._rotations = self._counter("rotations", "Changes of the current token.", "reason")
        self._quarantined = self._counter("quarantines", "Tokens put out of use.", "standing")
        self._revokes = self._counter("revokes", "Revoke calls.", "result")
        self._drift = self._counter(
            "token_drift_requests", "Requests that Mobula counted and the proxy did not."
        )
        self._outages = self._counter("store_outages", "Times the store was lost.")
        self._orphans = self._counter(
            "orphans", "Revokes of tokens that creation calls left behind.", "result"
        )
        self._key_changes = self._counter("key_changes", "Changes of the static key.")
        self._per_status: dict[tuple[str, int], Counter] = {}
        self._per_upstream: dict[str, Histogram] = {}
        self._per_client: dict[tuple[str, int], Counter] = {}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"mobula_proxy_{name}", text, labels, registry=self._registry)

    def watch(
        self,
        tokens: Callable[[], PoolSnapshot],
        store: Callable[[], SharingSnapshot],
        upstreams: Callable[[], Iterable[UpstreamSnapshot]],
        occupancy: Occupancy,
    ) -> None:
        """Have current values read at each scrape."""
        self._registry.register(_Gauges(tokens, store, upstreams, occupancy))

    def exposition(self) -> bytes:
        """Return the text that Prometheus scrapes, of CONTENT_TYPE."""
        return generate_latest(self._registry)

    def observe_request(self, fact: Fact) -> None:
        key = fact.upstream, fact.status
        counter = self._per_status.get(key)
        if counter is None:
            counter = self._per_status[key] = self._requests.labels(fact.upstream, str(fact.status))
        counter.inc()
        histogram = self._per_upstream.get(fact.upstream)
        if histogram is None:
            histogram = self._per_upstream[fact.upstream] = self._seconds.labels(fact.upstream)
        # What the parser refused took no time; WebSockets and tunnels last as their clients like.
        if fact.method not in UNTIMED and fact.status != SWITCHING:
            histogram.observe(fact.seconds)
        if fact.client:
            self._count_client(fact)
        if fact.code:
            self._errors.labels(fact.code).inc()
        if not fact.complete:
            self._broken.labels(fact.upstream).inc()
        if fact.attempts > 1:
            self._resends.labels(fact.upstream).inc(fact.attempts - 1)
        for place in fact.stripped:
            self._stripped.labels(place).inc()

    def _count_client(self, fact: Fact) -> None:
        key = fact.client, fact.status
        counter = self._per_client.get(key)
        if counter is None:
            counter = self._client_requests.labels(fact.client, str(fact.status))
            self._per_client[key] = counter
        counter.inc()
        if fact.code:
            self._client_refusals.labels(fact.client, fact.code).inc()

    def observe_token(self, event: Event) -> None:
        match event:
            case Minted(count):
                self._mints.labels("ok").inc()
                self._minted.inc(count)
            case MintFailed(fault):
                self._mints.labels(fault.kind).inc()
            case Rotated(_, reason):
                self._rotations.labels(reason.value).inc()
            case Quarantined(_, standing):
                self._quarantined.labels(standing.value).inc()
            case Revoked(_, ok):
                self._revokes.labels("ok" if ok else "failed").inc()
            case Drifted(_, requests):
                self._drift.inc(requests)
            case KeyChanged():
                self._key_changes.inc()
            case StoreLost():
                self._outages.inc()
            case OrphanFound(_, revoked):
                self._orphans.labels("ok" if revoked else "failed").inc()


class _Gauges(Collector):
    """Current values, read when asked."""

    def __init__(
        self,
        tokens: Callable[[], PoolSnapshot],
        store: Callable[[], SharingSnapshot],
        upstreams: Callable[[], Iterable[UpstreamSnapshot]],
        occupancy: Occupancy,
    ) -> None:
        self._tokens = tokens
        self._store = store
        self._upstreams = upstreams
        self._occupancy = occupancy

    def collect(self) -> Iterable[Metric]:
        info = _gauge("build_info", "Always 1; the label tells the version.", "version")
        info.add_metric([__version__], 1)
        yield info
        held = self._occupancy
        yield _single("client_connections", "Connections of clients.", held.connections)
        yield _single("tunnels", "Those of them that are tunnels to other hosts.", held.tunnels)
        yield _single("requests_in_flight", "Requests being served.", held.requests)
        yield _single("tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))
        yield from self._collect_tokens(self._tokens())
        yield from self._collect_store(self._store())
        connections = _gauge(
            "upstream_connections", "Connections to upstreams.", "upstream", "state"
        )
        waiting = _gauge("upstream_waiting", "Requests waiting for a connection.", "upstream")
        for each in self._upstreams():
            connections.add_metric([each.name, "idle"], each.idle)
            connections.add_metric([each.name, "busy"], each.busy)
            waiting.add_metric([each.name], each.waiting)
        yield connections
        yield waiting

    def _collect_store(self, store: SharingSnapshot) -> Iterable[Metric]:
        reach = _gauge(
            "store_reach",
            "1 for what is so: joined, or without the store local or cut (see store.on_outage).",
            "reach",
        )
        for each in Reach:
            reach.add_metric([each.value], float(store.reach == each.value))
        yield reach
        yield _single("sharers", "Processes that share the store's tokens.", store.sharers)
        yield _single("fleet_rate", "Leases a second of all who share them.", store.rate)

    def _collect_tokens(self, pool: PoolSnapshot) -> Iterable[Metric]:
        tokens = _gauge("tokens", "Tokens held, by state.", "state")
        for state in TOKEN_STATES[:-1]:
            tokens.add_metric([state], sum(1 for each in pool.tokens if each.state == state))
        tokens.add_metric([TOKEN_STATES[-1]], pool.quarantined)
        yield tokens
        settled = CounterMetricFamily(
            "mobula_proxy_leases_settled", "Leases settled, by outcome.", labels=["outcome"]
        )
        for outcome, count in pool.settled.items():
            settled.add_metric([outcome], count)
        yield settled
        yield _single("leases_open", "Leases given and not settled yet.", pool.leases)
        yield _single("token_requests_remaining", "Requests in hand over all tokens.", pool.left)
        yield _single(
            "token_requests_free",
            "Requests in the store that are granted to nobody.",
            sum(each.free for each in pool.tokens),
        )
        soonest = min((each.expires_in for each in pool.tokens), default=0.0)
        latest = max((each.expires_in for each in pool.tokens), default=0.0)
        yield _single("token_expiry_seconds", "Time until the first token expires.", soonest)
        yield _single("token_stock_expiry_seconds", "Time until the last one expires.", latest)
        yield _single("token_rate", "Leases a second, as observed for planning.", pool.rate)
        yield _single("mint_permits", "Creation calls that the budget allows now.", pool.permits)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mobula_proxy_{name}", text, labels=labels)


def _single(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mobula_proxy_{name}", text, value=value)
