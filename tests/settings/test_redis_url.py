"""Where a Redis store is."""

from dataclasses import replace

import pytest

from proxy.settings.redis_url import RedisUrl, is_redis

SERVER = RedisUrl("server", hosts=(("host", 6379),))
SENTINEL = RedisUrl("sentinel", hosts=(("host", 26379),), service="fleet")
CLUSTER = RedisUrl("cluster", hosts=(("host", 6379),))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("redis://host", SERVER),
        ("redis://host:6379/", SERVER),
        ("redis://host/0", SERVER),
        ("redis://host/3", replace(SERVER, db=3)),
        ("redis://10.0.0.1:7000", replace(SERVER, hosts=(("10.0.0.1", 7000),))),
        ("redis://[::1]:7000", replace(SERVER, hosts=(("::1", 7000),))),
        ("rediss://host", replace(SERVER, tls=True)),
        ("rediss://host?ssl_ca_certs=/ca.pem", replace(SERVER, tls=True, ca_file="/ca.pem")),
        ("redis://user:word@host", replace(SERVER, username="user", password="word")),
        ("redis://:word@host", replace(SERVER, password="word")),
        ("redis://u%40:%2F%3F%23%40%3A@host", replace(SERVER, username="u@", password="/?#@:")),
        ("redis://:a:b@host", replace(SERVER, password="a:b")),
        ("unix:///run/redis.sock", RedisUrl("unix", path="/run/redis.sock")),
        ("unix:///redis.sock?db=2", RedisUrl("unix", path="/redis.sock", db=2)),
        ("unix://:word@/redis.sock", RedisUrl("unix", path="/redis.sock", password="word")),
        ("redis+sentinel://host/fleet", SENTINEL),
        ("redis+sentinel://host/fleet/2", replace(SENTINEL, db=2)),
        (
            "rediss+sentinel://user:word@one:1,two/fleet?sentinel_username=u&sentinel_password=w",
            RedisUrl(
                "sentinel",
                hosts=(("one", 1), ("two", 26379)),
                service="fleet",
                tls=True,
                username="user",
                password="word",
                sentinel_username="u",
                sentinel_password="w",
            ),
        ),
        ("redis+cluster://host", CLUSTER),
        ("redis+cluster://host:1,[::1]", replace(CLUSTER, hosts=(("host", 1), ("::1", 6379)))),
        ("rediss+cluster://:word@host", replace(CLUSTER, tls=True, password="word")),
    ],
)
def test_a_url_is_read(text: str, url: RedisUrl) -> None:
    assert RedisUrl.parse(text) == url


@pytest.mark.parametrize(
    ("text", "what_is_right"),
    [
        ("redis:host", "redis://user:password@host:port"),
        ("redis://", "redis://user:password@host:port"),
        ("redis://host:", "redis://user:password@host:port"),
        ("redis://host:0", "redis://user:password@host:port"),
        ("redis://host:65536", "redis://user:password@host:port"),
        ("redis://:zz/zz@host", "written as %2F"),
        ("redis://:zz?zz@host", "%3F"),
        ("redis://:zz#zz@host", "%20"),
        ("redis://:zz zz@host", "%20"),
        ("redis://[::1", "brackets"),
        ("redis://one,two", "redis+sentinel://"),
        ("redis://host/fleet", "number"),
        ("redis://host/1/2", "nothing but a database"),
        ("redis+other://host", "redis+cluster://"),
        ("redis://host?ssl_ca_certs=/ca.pem", "may have none"),
        ("rediss://host?ca=/ca.pem", "ssl_ca_certs"),
        ("rediss://host?ssl_ca_certs", "?name=value"),
        ("unix://run/redis.sock", "absolute path"),
        ("unix://", "absolute path"),
        ("redis+sentinel://host", "redis+sentinel://host:26379/mymaster"),
        ("redis+sentinel://host/fleet/1/2", "redis+sentinel://host:26379/mymaster"),
        ("redis+cluster://host/1", "no path"),
    ],
)
def test_a_wrong_url_is_refused_with_what_is_right(text: str, what_is_right: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        RedisUrl.parse(text)
    assert what_is_right in str(caught.value)
    assert "zz" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("redis://user:word@host", "redis://host:6379"),
        ("rediss://:word@[::1]/2?ssl_ca_certs=/ca.pem", "rediss://[::1]:6379/2"),
        ("unix://:word@/redis.sock", "unix:///redis.sock"),
        (
            "rediss+sentinel://:word@one,two/fleet/1?sentinel_password=w",
            "rediss+sentinel://one:26379,two:26379/fleet/1",
        ),
        ("redis+cluster://:word@one,two", "redis+cluster://one:6379,two:6379"),
    ],
)
def test_it_is_shown_without_credentials(text: str, place: str) -> None:
    assert str(RedisUrl.parse(text)) == place


def test_its_repr_holds_no_password() -> None:
    url = RedisUrl.parse("redis+sentinel://:first@host/fleet?sentinel_password=second")
    assert "first" not in repr(url)
    assert "second" not in repr(url)


def test_only_some_schemes_mean_redis() -> None:
    meant = ("redis://host", "rediss:host", "unix:///path", "redis+other://host")
    assert all(map(is_redis, meant))
    assert not any(map(is_redis, ("memory://", "sqlite:///path", "redistribute://host")))
