"""Whether the static key's plan has tokens: one is made, inspected and revoked."""

from dataclasses import dataclass

from proxy.launch.report import Line, fail, ok, warn
from proxy.ops.tokens import Desk, make, refusal
from proxy.tokens.mobula import MintError, Revocation
from proxy.tokens.model import MintFault, Standing
from proxy.tokens.store.base import Order, Wait

CHECK = "mint"
ORDER = Order(count=1, limit=1, lifetime=60.0)
COSTS = "one of the 5 creation calls a minute"
LATER = "run doctor again in a minute, or with --no-mint"


@dataclass(frozen=True, slots=True)
class Probe:
    """What became of one token, as far as it came."""

    wait: Wait | None = None
    """Why the store gave no leave."""
    fault: MintFault | None = None
    standing: Standing = Standing.UNKNOWN
    revocation: Revocation = Revocation.UNCONFIRMED


async def make_probe(desk: Desk) -> Probe:
    """Make the smallest token there is, ask about it and revoke it. Raises StoreError."""
    try:
        made = await make(desk, ORDER)
    except MintError as error:
        return Probe(fault=error.fault)
    if isinstance(made, Wait):
        return Probe(wait=made)
    token = made.tokens[0]
    found = await desk.mobula.inspect(token)
    revoked = await desk.mobula.revoke_id(token.id, token.key)
    return Probe(standing=found.standing, revocation=revoked)


def judge(probe: Probe, name: str, source: str) -> Line:
    """Say how it went; `source` is where the static key came from."""
    if probe.wait is not None:
        return warn(CHECK, name, f"not tried: {refusal(probe.wait)}", step=LATER)
    if probe.fault is not None:
        return fail(CHECK, name, probe.fault.detail, step=_step(probe.fault, name, source))
    if probe.standing is not Standing.ALIVE:
        found = "a token was made, but Mobula does not tell how it stands"
        step = "see whether something on the way changes what Mobula answers"
        return warn(CHECK, name, found, step=step)
    if probe.revocation is not Revocation.REVOKED:
        found = "a token was made, but Mobula did not confirm that it is revoked"
        return warn(CHECK, name, found, step="wait a minute: it ends by itself then")
    return ok(CHECK, name, f"a token was made, inspected and revoked; it cost {COSTS}")


def _step(fault: MintFault, name: str, source: str) -> str:
    match fault.kind:
        case "401":
            return f"put the key that Mobula's dashboard shows into {source}"
        case "402":
            return "settle what is due in Mobula's dashboard"
        case "403":
            return "change the plan in Mobula's dashboard, or take the key of another account"
        case "404" | "redirect":
            return f"set upstreams.{name}.url to https://api.mobula.io, without a path"
        case "429":
            return f"{LATER}; give all who share this key one store.url, which counts the calls"
        case "connect" | "tls":
            return "see dns and tls above"
        case "unreadable":
            return f"see whether upstreams.{name}.url is the API, and not a page in front of it"
        case _:
            return "run doctor again; if it stays so, see whether Mobula has an outage"
