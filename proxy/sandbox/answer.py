"""What the sandbox answers, as data; `server` alone sends it."""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

JSON = {"Content-Type": "application/json; charset=utf-8"}


class MalformedError(ValueError):
    """A request that cannot be understood; its text goes to the client, so it holds no secret."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: `body` is what goes out, `headers` add to those that the server sets."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer of status 200 that is made while it is sent; `length` None means chunked."""

    chunks: AsyncGenerator[bytes, None]
    length: int | None
    headers: Mapping[str, str]


def dump(payload: object) -> bytes:
    """Return `payload` as compact JSON, all ASCII."""
    return json.dumps(payload, separators=(",", ":")).encode()


def parse_object(body: bytes) -> dict[str, object]:
    """Return the JSON object that `body` is; MalformedError for anything else."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedError("body must be valid JSON") from None
    if not isinstance(parsed, dict):
        raise MalformedError("body must be a JSON object")
    return parsed


def refuse_unknown(fields: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Raise MalformedError, naming them, if `fields` has any that are not `known`."""
    if unknown := sorted(fields.keys() - known.keys()):
        raise MalformedError(f"unknown field {unknown[0][:40]!r}; known are {', '.join(known)}")


def json_answer(payload: object, status: int = 200) -> Answer:
    return Answer(status, dump(payload))


def refusal(status: int, message: str | None = None, headers: Mapping[str, str] = JSON) -> Answer:
    """Return an error as the API words it: `{"message": text, "statusCode": status}`."""
    payload = {"message": message or phrase(status), "statusCode": status}
    return Answer(status, dump(payload), {**JSON, **headers})


def method_refusal(allowed: Mapping[str, object]) -> Answer:
    return refusal(405, headers={"Allow": ", ".join(allowed)})


def phrase(status: int) -> str:
    """Return the reason phrase, or plain words for a status that has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"
