"""The control endpoints under `/_sandbox/`: they need no credential and are never counted. Pure.

GET    /_sandbox/ledger    what arrived, as JSON (see `Ledger.report`)
POST   /_sandbox/faults    let a fault stand: the fields of `Fault`, as JSON
GET    /_sandbox/faults    how many stand
DELETE /_sandbox/faults    clear them
POST   /_sandbox/revoke    {"id": "..."} or {"all": true}
POST   /_sandbox/skew      {"seconds": 3600}
"""

from collections.abc import Callable

from proxy.sandbox.answer import (
    Answer,
    MalformedError,
    json_answer,
    method_refusal,
    parse_object,
    refusal,
)
from proxy.sandbox.faults import Fault, Faults
from proxy.sandbox.ledger import Ledger

PREFIX = "/_sandbox/"
MAX_SKEW = 10 * 365 * 86_400


class Control:
    """Acts on `ledger` and `faults`."""

    def __init__(self, ledger: Ledger, faults: Faults) -> None:
        self._ledger = ledger
        self._faults = faults
        self._table: dict[str, dict[str, Callable[[bytes], Answer]]] = {
            "ledger": {"GET": self._report},
            "faults": {
                "GET": self._standing,
                "POST": self._add_fault,
                "DELETE": self._clear_faults,
            },
            "revoke": {"POST": self._revoke},
            "skew": {"POST": self._set_skew},
        }

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Do what is asked; MalformedError (400) says what is wrong with `body`."""
        methods = self._table.get(path.removeprefix(PREFIX))
        if methods is None:
            return refusal(404, f"Known are {', '.join(PREFIX + name for name in self._table)}")
        act = methods.get(method)
        return act(body) if act else method_refusal(methods)

    def _report(self, _: bytes) -> Answer:
        return json_answer(self._ledger.report())

    def _standing(self, _: bytes) -> Answer:
        return json_answer({"faults": len(self._faults)})

    def _add_fault(self, body: bytes) -> Answer:
        self._faults.add(Fault.from_json(parse_object(body)))
        return self._standing(body)

    def _clear_faults(self, body: bytes) -> Answer:
        self._faults.clear()
        return self._standing(body)

    def _revoke(self, body: bytes) -> Answer:
        match parse_object(body):
            case {"all": True, **rest} if not rest:
                return json_answer({"revoked": self._ledger.revoke_all()})
            case {"id": str(token_id), **rest} if not rest:
                revoked = self._ledger.revoke(token_id)
                return json_answer({"revoked": 1}) if revoked else refusal(404, "Token not found")
        raise MalformedError('body must be {"id": "..."} or {"all": true}')

    def _set_skew(self, body: bytes) -> Answer:
        match parse_object(body):
            case {"seconds": (int() | float()) as seconds, **rest} if not rest and _is_skew(
                seconds
            ):
                self._ledger.skew = float(seconds)
                return json_answer({"skew": self._ledger.skew})
        raise MalformedError(f'body must be {{"seconds": N}}, N up to {MAX_SKEW} either way')


def _is_skew(seconds: float) -> bool:
    return not isinstance(seconds, bool) and -MAX_SKEW <= seconds <= MAX_SKEW
