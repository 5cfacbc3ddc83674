"""What happens the moment a request arrives: it is counted, searched and charged. No awaits."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import hdrs, web

from proxy.sandbox import tokens
from proxy.sandbox.answer import Answer
from proxy.sandbox.faults import Fault, Faults
from proxy.sandbox.ledger import Credential, Ledger, MintCall, StaticKey, Token

API_KEY = "x-api-key"
FAULT = "X-Sandbox-Fault"


@dataclass(eq=False, slots=True)
class Visit:
    """What is known of a request on arrival; `kind` as in `Ledger.arrived`."""

    kind: str
    refusal: Answer | None = field(default=None, repr=False)
    token: Token | None = None
    owner: StaticKey | None = None
    mint: MintCall | None = None


def arrive(ledger: Ledger, request: web.BaseRequest) -> Visit:
    """Count and charge `request`, and flag static keys outside its body."""
    visit = Visit(tokens.kind_of(request.method, request.path) or "data")
    ledger.arrived(visit.kind)
    places = ledger.finder.places(
        request.raw_path, request.raw_headers, manages=visit.kind != "data"
    )
    for place in places:
        ledger.leaked(place, request.path)
    if visit.kind == "data":
        visit.refusal, visit.token = ledger.charge(credential(request.headers))
    else:
        _admit(ledger, visit, credential(request.headers))
    return visit


def _admit(ledger: Ledger, visit: Visit, shown: Credential | None) -> None:
    manager = ledger.manager(shown)
    if isinstance(manager, StaticKey):
        visit.owner = manager
    else:
        visit.refusal = manager
    if visit.kind == "mint":
        visit.mint, wait = ledger.mint_called(visit.owner)
        if wait:
            visit.refusal = tokens.over_budget(wait)


def credential(headers: Mapping[str, str]) -> Credential | None:
    """Return what the request shows, in one of the three forms of Mobula's "Authentication" page.

    `Authorization: VALUE`, `Authorization: Bearer VALUE` or `x-api-key: VALUE`; the first wins.
    """
    value = headers.get(hdrs.AUTHORIZATION)
    if value is None:
        key = headers.get(API_KEY)
        return None if key is None else Credential(key, bearer=False)
    scheme, _, rest = value.partition(" ")
    if rest and scheme.lower() == "bearer":
        return Credential(rest.strip(), bearer=True)
    return Credential(value, bearer=False)


def pick_fault(faults: Faults, request: web.BaseRequest, visit: Visit, now: float) -> Fault | None:
    """Return the fault to strike: the request's own, else the first standing one.

    Raises MalformedError for an `X-Sandbox-Fault` that makes no sense.
    """
    if visit.kind == "data" and (own := request.headers.get(FAULT)):
        return Fault.from_header(own)
    return faults.take(request.method, request.path, now)
