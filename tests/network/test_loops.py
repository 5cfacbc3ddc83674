"""Which addresses are our own listeners."""

import socket

import psutil
import pytest

from proxy.network.errors import LoopError
from proxy.network.loops import OwnListeners
from proxy.network.resolver import known

PORT = 8443
ANY = "0.0.0.0"  # noqa: S104 - nothing is bound


def leads_back(bound: str, dialled: str, port: int = PORT) -> bool:
    own = OwnListeners()
    own.add([(bound, PORT)])
    try:
        own.others(known(dialled, port))
    except LoopError:
        return True
    return False


@pytest.fixture
def here() -> str:
    """An address of this machine that others could reach it at."""
    found = [
        each.address.partition("%")[0]
        for name in psutil.net_if_addrs().values()
        for each in name
        if each.family in (socket.AF_INET, socket.AF_INET6)
    ]
    return next(iter(each for each in found if not each.startswith(("127.", "::1", "fe80"))), "")


@pytest.mark.parametrize(
    ("bound", "dialled"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
        ("127.0.0.1", ANY),
        ("::1", "::1"),
        ("::1", "::"),
        ("10.1.2.3", "10.1.2.3"),
        (ANY, "127.0.0.1"),
        (ANY, "127.9.9.9"),
        (ANY, ANY),
        ("::", "::1"),
    ],
)  # fmt: skip
def test_an_address_that_a_listener_is_bound_to_leads_back(bound: str, dialled: str) -> None:
    assert leads_back(bound, dialled)
    assert not leads_back(bound, dialled, PORT + 1)


@pytest.mark.parametrize(
    ("bound", "dialled"),
    [
        ("127.0.0.1", "127.0.0.2"),
        ("127.0.0.1", "::1"),
        ("10.1.2.3", "127.0.0.1"),
        (ANY, "203.0.113.7"),
        (ANY, "::1"),
        ("::", "127.0.0.1"),
        ("::", "2001:db8::7"),
    ],
)  # fmt: skip
def test_any_other_address_leads_elsewhere(bound: str, dialled: str) -> None:
    assert not leads_back(bound, dialled)


def test_every_address_of_this_machine_leads_back_to_a_wildcard(here: str) -> None:
    if not here:
        pytest.skip("this machine has no address but loopback")
    assert leads_back("::" if ":" in here else ANY, here)
    assert not leads_back("::1" if ":" in here else "127.0.0.1", here)


def test_the_error_names_the_listener() -> None:
    own = OwnListeners()
    own.add([("::1", PORT), ("127.0.0.1", PORT)])
    with pytest.raises(LoopError) as caught:
        own.others(known("::1", PORT))
    assert caught.value.place == "[::1]:8443"
    assert repr(own) == "<OwnListeners ['127.0.0.1:8443', '::1:8443']>"
