"""What listeners with clients, or with TLS of their own, need."""

from pathlib import Path
from typing import Any

import trustme

from harness import settings_for
from proxy.launch.checks.clients import look
from proxy.launch.report import Line, ok

GATE = {"bind": "127.0.0.1:8080", "authenticate": True}
DIGEST = f"sha256:{'0' * 64}"


def looked_at(*listeners: dict[str, Any], **sections: Any) -> list[Line]:
    return list(look(settings_for("https://api.test", listeners=list(listeners), **sections)))


def test_nothing_is_said_where_no_listener_wants_anything() -> None:
    assert looked_at({"bind": "127.0.0.1:8080"}) == []


def test_clients_are_counted_those_of_the_file_too(tmp_path: Path) -> None:
    file = tmp_path / "clients.yaml"
    file.write_text("b: {uids: [1]}\nc: {uids: [2]}")
    found = looked_at(GATE, clients={"a": {"tokens": [DIGEST]}}, clients_file=str(file))
    assert found == [ok("clients", "known", "3")]


def test_each_problem_of_their_file_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / "clients.yaml"
    file.write_text("a: {uids: [1], rate: 5}\nb: {tokens: [a-plain-token]}")
    lines = looked_at(GATE, clients_file=str(file))
    assert {each.grade.value for each in lines} == {"fail"}
    assert [each.subject for each in lines] == ["clients.a.rate", "clients.b.tokens"]
    assert "a-plain-token" not in str(lines)


def test_files_of_tls_are_read(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("gate.test")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "crt"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    tls = {"certificate_file": str(tmp_path / "crt"), "key_file": str(tmp_path / "key")}
    listener = {"bind": "127.0.0.1:8080", "tls": tls}
    assert looked_at(listener) == [ok("listener tls", "listeners[0].tls", "its files can be used")]
    (tmp_path / "key").unlink()
    (line,) = looked_at(listener)
    assert line.grade.value == "fail"
    assert line.found.endswith("cannot be used: No such file or directory")


def test_who_asks_about_service_accounts_needs_one_of_its_own(tmp_path: Path) -> None:
    accounts = {"token_file": str(tmp_path / "token"), "ca_file": str(tmp_path / "ca.crt")}
    sections = {"clients": {"a": {"service_accounts": ["shop/*"]}}, "service_accounts": accounts}
    _, line = looked_at(GATE, **sections)
    assert (line.grade.value, line.subject) == ("fail", "service_accounts.token_file")
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("x")
    assert looked_at(GATE, **sections)[1].found == "asked about at https://kubernetes.default.svc"
