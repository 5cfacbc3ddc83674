"""Faults, without a server."""

from contextlib import suppress
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sandbox.answer import MalformedError
from proxy.sandbox.faults import MAX_STANDING, Fault, Faults


def test_a_header_combines_effects() -> None:
    fault = Fault.from_header("delay=0.2; status=503 ;drop=body; revoke")
    assert fault == Fault(delay=0.2, status=503, drop="body", revoke=True)


@pytest.mark.parametrize(
    "text",
    ["", ";", "status", "status=x", "status=99", "status=600", "delay=-1", "delay=nan",
     "delay=3601", "drop=tail", "drop", "revoke=1", "burn", "path=/x"],
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        Fault.from_header(text)


def test_json_takes_every_field() -> None:
    fields = {"path": "/a", "method": "POST", "status": 200, "delay": 1, "drop": "body",
              "revoke": True, "body": "<html>", "headers": {"X-A": "b"}, "times": 2,
              "until": 5.0}  # fmt: skip
    assert Fault.from_json(fields) == Fault(
        path="/a", method="POST", status=200, delay=1, drop="body", revoke=True, body="<html>",
        headers={"X-A": "b"}, times=2, until=5.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "a fault needs"),
        ({"path": "/x"}, "a fault needs"),
        ({"statuses": 500}, "unknown field 'statuses'"),
        ({"status": "503"}, "status must be a whole number"),
        ({"status": True}, "status must be a whole number"),
        ({"status": 101}, "status must be 200 to 599"),
        ({"delay": 10**400}, "delay must be 0 to 3600"),
        ({"status": 500, "times": 0}, "times must be 1 or more"),
        ({"status": 500, "until": float("inf")}, "until must be a time"),
        ({"status": 500, "headers": {"A": 1}}, "headers must be an object of texts"),
        ({"status": 500, "headers": []}, "headers must be an object of texts"),
        ({"status": 500, "headers": {"A": "b\r\nC: d"}}, "the value of A must be printable"),
        ({"status": 500, "headers": {"A b": "c"}}, "a name must be letters"),
        ({"status": 500, "headers": {"Content-Length": "3"}}, "set by the server"),
        ({"delay": 1, "headers": {"A": "b"}}, "headers need status or body"),
    ],
)
def test_json_that_makes_no_sense_is_refused_saying_why(
    fields: dict[str, object], text: str
) -> None:
    with pytest.raises(MalformedError, match=text):
        Fault.from_json(fields)


def test_a_body_alone_is_answered_with_200() -> None:
    answer = Fault(body="<html>").answer()
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"<html>")


def test_a_status_alone_is_answered_in_the_words_of_the_api() -> None:
    answer = Fault(status=503, headers={"Retry-After": "3"}).answer()
    assert answer is not None
    assert answer.body == b'{"message":"Sandbox fault: Service Unavailable","statusCode":503}'
    assert answer.headers["Retry-After"] == "3"


def test_a_content_type_of_the_fault_replaces_ours_in_any_case() -> None:
    answer = Fault(body=b"\0", headers={"content-type": "image/png"}).answer()
    assert answer is not None
    assert answer.headers == {"content-type": "image/png"}


def test_a_status_without_a_name_is_answered_too() -> None:
    answer = Fault(status=599).answer()
    assert answer is not None
    assert b"Status 599" in answer.body


def test_delay_drop_and_revoke_leave_the_answer_to_the_endpoint() -> None:
    assert Fault(delay=1, drop="head", revoke=True).answer() is None


@pytest.mark.parametrize(
    ("fault", "strikes"),
    [
        (Fault(status=500), True),
        (Fault(path="/a/b", status=500), True),
        (Fault(path="/a", status=500), False),
        (Fault(path="/a*", status=500), True),
        (Fault(path="/b*", status=500), False),
        (Fault(path="/a/b", method="GET", status=500), True),
        (Fault(path="/a/b", method="POST", status=500), False),
    ],
)
def test_a_standing_fault_strikes_by_path_and_method(fault: Fault, strikes: bool) -> None:
    faults = Faults()
    faults.add(fault)
    assert (faults.take("GET", "/a/b", 0.0) is fault) is strikes


def test_a_fault_strikes_as_often_as_told() -> None:
    faults = Faults()
    faults.add(Fault(status=500, times=2))
    assert [faults.take("GET", "/", 0.0) is not None for _ in range(3)] == [True, True, False]
    assert len(faults) == 0


def test_a_fault_strikes_until_its_time() -> None:
    faults = Faults()
    faults.add(Fault(status=500, until=10.0))
    assert faults.take("GET", "/", 9.9) is not None
    assert faults.take("GET", "/", 10.0) is None


def test_the_first_that_strikes_is_taken_and_the_next_when_it_is_used_up() -> None:
    faults = Faults()
    first, second = Fault(status=500, times=1), Fault(status=502)
    faults.add(first)
    faults.add(second)
    assert [faults.take("GET", "/", 0.0) for _ in range(2)] == [first, second]


def test_faults_are_cleared_and_bounded() -> None:
    faults = Faults()
    for _ in range(MAX_STANDING):
        faults.add(Fault(status=500))
    with pytest.raises(MalformedError, match="no more than"):
        faults.add(Fault(status=500))
    faults.clear()
    assert repr(faults) == "<Faults 0 standing>"


_NAMES = st.sampled_from(sorted(get_type_hints(Fault).keys() - {"_"}))
_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
_JSON = _VALUES | st.dictionaries(st.text(max_size=3), _VALUES, max_size=2)


@given(st.dictionaries(_NAMES, _JSON, max_size=4))
def test_json_is_either_refused_or_a_fault_that_works(fields: dict[str, object]) -> None:
    with suppress(MalformedError):
        fault = Fault.from_json(fields)
        fault.answer()
        fault.strikes("GET", "/")


@given(st.text(st.sampled_from("statudelayropvk=;0123.9-einf "), max_size=30))
def test_a_header_is_either_refused_or_a_fault(text: str) -> None:
    with suppress(MalformedError):
        Fault.from_header(text).strikes("GET", "/")


def test_a_body_that_is_no_unicode_is_survived() -> None:
    answer = Fault(body="\ud800").answer()
    assert answer is not None
    assert answer.body == b"?"
