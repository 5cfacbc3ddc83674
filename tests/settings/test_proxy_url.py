"""The URL of the proxy that a network has of its own."""

from base64 import b64decode

import pytest

from proxy.settings.places import Address
from proxy.settings.proxy_url import ProxyUrl
from proxy.settings.values import Wrong

SECRET = "pass4711"


def credentials(text: str) -> str | None:
    url = ProxyUrl.parse(text)
    assert url is not None
    value = url.authorization()
    return value and b64decode(value.removeprefix("Basic ")).decode()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("http://proxy:3128", Address("proxy", 3128)),
        ("HTTP://Proxy.Test:80/", Address("proxy.test", 80)),
        ("http://10.0.0.1:3128", Address("10.0.0.1", 3128)),
        ("http://user:word@[FD00::0:1]:3128", Address("fd00::1", 3128)),
    ],
)
def test_a_url_names_a_place(text: str, place: Address) -> None:
    url = ProxyUrl.parse(text)
    assert url is not None
    assert url.place == place


@pytest.mark.parametrize(
    ("user_info", "pair"),
    [
        ("user:word@", "user:word"),
        ("user@", "user:"),
        (":word@", ":word"),
        ("user:a:b@", "user:a:b"),
        ("a%40b:%2F%3f%23%40%3A%25@", "a@b:/?#@:%"),
        ("user:ü@".replace("ü", "%C3%BC"), "user:ü"),
        ("", None),
    ],
)
def test_credentials_are_taken_out_of_their_quotes(user_info: str, pair: str | None) -> None:
    assert credentials(f"http://{user_info}proxy:3128") == pair


@pytest.mark.parametrize(
    "text",
    [
        "proxy:3128",
        "https://proxy:3128",
        "socks5://proxy:3128",
        "http://proxy",
        "http://proxy:0",
        "http://proxy:65536",
        "http://:3128",
        "http://127.1:3128",
        "http://unix:/run/proxy.sock",
        "http://proxy:3128/path",
        "http://proxy:3128?x",
        f"http://user:{SECRET}/x@proxy:3128",
        f"http://user:{SECRET}@x@proxy:3128",
        f"http://user:{SECRET} @proxy:3128",
        f"http://user:{SECRET}%zz@proxy:3128",
        f"http://user:{SECRET}ü@proxy:3128",
        f"http://user:{SECRET}\n@proxy:3128",
        f"http://user:{SECRET}",
        "",
        7,
        ["http://proxy:3128"],
    ],
)
def test_any_other_is_told_what_would_be_right_and_not_repeated(text: object) -> None:
    with pytest.raises(Wrong, match=r"^must be http://host:port or http://user:p") as caught:
        ProxyUrl.parse(text)
    assert SECRET not in str(caught.value)


def test_what_stands_for_credentials_is_not_taken_for_them() -> None:
    url = ProxyUrl.parse(f"http://user:{SECRET}@proxy:3128")
    with pytest.raises(Wrong, match=r"must have its credentials in place of \*\*\*"):
        ProxyUrl.parse(str(url))


def test_only_who_sends_the_credentials_is_shown_them() -> None:
    url = ProxyUrl.parse(f"http://user:{SECRET}@proxy:3128")
    assert url is not None
    assert url.hides
    assert (str(url), f"{url}") == ("http://***@proxy:3128",) * 2
    assert repr(url) == "ProxyUrl('http://***@proxy:3128')"


def test_urls_compare_by_what_they_hide() -> None:
    url = ProxyUrl.parse("http://user:a@proxy:3128")
    assert url == ProxyUrl.parse("HTTP://user:a@PROXY:3128/")
    assert url != ProxyUrl.parse("http://user:b@proxy:3128")


def test_there_may_be_none() -> None:
    assert ProxyUrl.parse(None) is None
