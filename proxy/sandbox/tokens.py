"""The four token endpoints: from one call of a static key to its answer. Pure.

Source: Mobula's page on short-lived tokens; the envelopes of list, inspect and revoke follow the
names in Mobula's API.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from proxy.sandbox.answer import Answer, MalformedError, json_answer, method_refusal, refusal
from proxy.sandbox.ledger import Ledger, StaticKey, Token
from proxy.sandbox.mint import MintOrder

TOKENS = "/api/2/auth/tokens"
INSPECT = "/api/2/auth/token"

_ONE = f"{TOKENS}/"
_KINDS: dict[str, dict[str, str]] = {
    TOKENS: {"POST": "mint", "GET": "list"},
    INSPECT: {"GET": "inspect"},
    _ONE: {"DELETE": "revoke"},
}


def kind_of(method: str, path: str) -> str | None:
    """Return mint, list, inspect or revoke; `other` for a wrong method; None for other paths."""
    methods = _methods(path)
    return methods.get(method, "other") if methods else None


def _methods(path: str) -> dict[str, str] | None:
    if path.startswith(_ONE) and "/" not in path[len(_ONE) :] != "":
        return _KINDS[_ONE]
    return _KINDS.get(path) if path != _ONE else None


def answer(
    ledger: Ledger, owner: StaticKey, kind: str, path: str, query: Mapping[str, str]
) -> Answer:
    """Answer a call other than a mint."""
    match kind:
        case "list":
            return json_answer({"apiTokens": [_shape(token) for token in ledger.tokens(owner)]})
        case "inspect":
            return _inspect(ledger, owner, query)
        case "revoke":
            return _revoke(ledger, owner, path.removeprefix(_ONE))
        case _:
            return method_refusal(_methods(path) or {})


def mint(ledger: Ledger, owner: StaticKey, content_type: str, body: bytes) -> tuple[Answer, int]:
    """Mint, within the budget. Return the answer and how many tokens were made.

    Raises MalformedError (400) for a body that breaks a documented rule.
    """
    if content_type != "application/json":
        raise MalformedError("Content-Type must be application/json")
    tokens = ledger.mint(owner, MintOrder.parse(body))
    created = [_shape(token, token=token.value) for token in tokens]
    return json_answer({"createApiTokens": created}), len(tokens)


def over_budget(wait: int) -> Answer:
    message = "At most 5 token creation calls a minute are allowed"
    return refusal(429, message, {"Retry-After": str(wait)})


def _inspect(ledger: Ledger, owner: StaticKey, query: Mapping[str, str]) -> Answer:
    value = query.get("token")
    if not value:
        raise MalformedError("token must be given in the query")
    token = ledger.find(owner, value=value)
    return json_answer({"apiToken": _shape(token)}) if token else refusal(404, "Token not found")


def _revoke(ledger: Ledger, owner: StaticKey, token_id: str) -> Answer:
    if ledger.find(owner, token_id=token_id) is None:
        return refusal(404, "Token not found")
    ledger.revoke(token_id)
    return json_answer({"deleteApiToken": token_id})


def _shape(token: Token, /, **more: str) -> dict[str, str]:
    moment = datetime.fromtimestamp(token.expires, UTC).isoformat(timespec="milliseconds")
    return {
        "id": token.id,
        **more,
        "expiresTimeString": moment.replace("+00:00", "Z"),
        "requestLimit": str(token.limit),
        "remaining": str(token.limit - token.used),
    }
