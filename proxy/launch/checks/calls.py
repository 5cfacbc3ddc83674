"""What became of an app's calls, by what the proxy has seen of them. Pure."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from proxy.config import MOBULA_DOMAIN
from proxy.launch.report import Line, fail, has_failed, ok, warn
from proxy.launch.runtimes import Runtime, advice
from proxy.traffic.fact import OTHER_HOSTS, Fact

CHECK, TUNNELS = "calls", "tunnels"
SHOWN = 3
"""How many hosts a line names."""
_SWITCHING = 101
_REFUSED = {
    "ca_not_trusted": "connections were broken off, because it does not trust the local CA",
    "tls_handshake_failed": "connections were broken off during the handshake, as by distrust",
    "client_unknown": "requests were refused, because they show a key that is not the proxy's",
}
"""What the codes come to, for those that tell of the app rather than of the API."""


def judge(facts: Sequence[Fact], runtimes: Collection[Runtime]) -> list[Line]:
    """Say whether calls came through, and if not, what to do about it."""
    ours = [each for each in facts if each.upstream != OTHER_HOSTS]
    lines = [*_through(ours), *_refused(ours, runtimes), *_elsewhere(facts)]
    if not ours and not has_failed(lines):
        lines.append(fail(CHECK, "none", "no call to an upstream came", step=other_ways(runtimes)))
    return lines


def _is_through(fact: Fact) -> bool:
    """Tell whether the API has answered, or the app did not wait for it; a WebSocket may end."""
    return not fact.code or fact.status == _SWITCHING


def _through(facts: Sequence[Fact]) -> Iterator[Line]:
    statuses: dict[str, Counter[int]] = {}
    for each in filter(_is_through, facts):
        statuses.setdefault(each.upstream, Counter())[each.status] += 1
    for name, counts in statuses.items():
        shown = ", ".join(
            f"{count} x {status or 'left before an answer'}"
            for status, count in sorted(counts.items())
        )
        found = f"came through: {shown}"
        if any(0 < status < 400 for status in counts):
            yield ok(CHECK, name, found)
        else:
            step = "these answers are the API's own: see what they say"
            yield warn(CHECK, name, found, step=step)


def _refused(facts: Sequence[Fact], runtimes: Collection[Runtime]) -> Iterator[Line]:
    through = {each.upstream for each in facts if _is_through(each)}
    refused = Counter((each.upstream, each.code) for each in facts if not _is_through(each))
    for (name, code), count in refused.items():
        found = f"{count} {_REFUSED.get(code, 'requests were refused')} ({code})"
        judged = warn if name in through else fail
        yield judged(CHECK, name, found, step=_step(code, runtimes))


def _step(code: str, runtimes: Collection[Runtime]) -> str:
    match code:
        case "ca_not_trusted" | "tls_handshake_failed":
            return advice(runtimes, "trust")
        case "client_unknown":
            return "have it read its key from MOBULA_API_KEY, or use `mobula-proxy exec --open`"
        case _:
            return f"see {code} in docs/errors.md"


def other_ways(runtimes: Collection[Runtime]) -> str:
    """Say what to do about an app that goes past the proxy."""
    return (
        f"{advice(runtimes, 'ways')}; or make $MOBULA_API_URL its base URL; or point the API's name"
        " at a tls listener (docs/unmodified-apps.md)"
    )


def _elsewhere(facts: Sequence[Fact]) -> Iterator[Line]:
    others = [each for each in facts if each.upstream == OTHER_HOSTS]
    tunnels = [each for each in others if each.method == "CONNECT" and not each.code]
    hosts = dict.fromkeys(each.path.rpartition(":")[0] for each in tunnels)
    for host in filter(_is_of_api, hosts):
        found = "it is no upstream, so the app's own key went there, through a tunnel"
        yield fail(CHECK, host, found, step="name it in upstreams, beside the others")
    if strangers := [host for host in hosts if not _is_of_api(host)]:
        more = len(strangers) - SHOWN
        shown = ", ".join(strangers[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        yield ok(TUNNELS, "other hosts", f"{shown}, untouched")
    for code, count in Counter(each.code for each in others if each.code).items():
        step = f"see {code} in docs/errors.md; if it was a host of the API, name it in upstreams"
        yield warn(TUNNELS, "other hosts", f"{count} not reached ({code})", step=step)


def _is_of_api(host: str) -> bool:
    return host == MOBULA_DOMAIN or host.endswith(f".{MOBULA_DOMAIN}")
