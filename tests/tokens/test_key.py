"""The static key: what is refused, which source wins, and how it is watched."""

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from proxy.config import ApiKeySettings, StoreSecretSettings
from proxy.tokens.key import (
    MAX_BYTES,
    KeyRefusedError,
    KeySource,
    StaticKey,
    find_key_source,
    find_store_secret,
    parse_key,
)

VALUE = "4f9c2e1a-static-key/with+signs=~"
POLL_SECONDS = 0.005


def parsed(value: str = VALUE) -> StaticKey:
    return parse_key(value, "the test")


def reason(text: str) -> str:
    """Why `text` is refused."""
    with pytest.raises(KeyRefusedError) as caught:
        parse_key(text, "the test")
    return str(caught.value)


def jwt_like(header: object) -> str:
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    return f"{head}.e30.c2lnbmF0dXJl"


# What is refused


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", "\r"])
def test_trailing_line_ends_are_trimmed(end: str) -> None:
    assert parsed(VALUE + end).secret.reveal() == VALUE


def test_a_key_shows_a_short_fingerprint_only() -> None:
    key = parsed()
    assert len(key.fingerprint) == 8
    assert key.fingerprint in repr(key)
    assert VALUE not in repr(key)
    assert parsed("another").fingerprint != key.fingerprint


@pytest.mark.parametrize("text", ["", "\n", "\r\n"])
def test_an_empty_key_is_refused_with_a_word_on_how_to_give_one(text: str) -> None:
    assert reason(text).startswith("The static key from the test is empty. Set MOBULA_API_KEY")


@pytest.mark.parametrize(
    "text",
    [" ", f" {VALUE}", f"{VALUE} ", f"Bearer {VALUE}", f"{VALUE}\t", f"{VALUE}\nsecond line"]
    + [f"{VALUE}{odd}" for odd in "\x00\x1b\x7f\x85\xa0é\u200b\ufeff\udce9"],
)
def test_a_key_with_a_space_a_control_character_or_beyond_ascii_is_refused(text: str) -> None:
    assert "a space, a control character or a character outside ASCII" in reason(text)
    assert VALUE not in reason(text)


def test_a_key_that_is_too_long_is_refused() -> None:
    assert parsed("k" * MAX_BYTES).secret.reveal() == "k" * MAX_BYTES
    assert reason("k" * (MAX_BYTES + 1)).endswith(f"longer than {MAX_BYTES} bytes.")


def test_a_short_lived_token_in_place_of_the_key_is_refused() -> None:
    text = jwt_like({"alg": "HS256", "typ": "JWT"})
    assert "is a short-lived token (a JWT), which cannot mint" in reason(text)
    assert text not in reason(text)


@pytest.mark.parametrize(
    "text",
    [
        "three.dotted.parts",
        "a.b.c",
        "..",
        jwt_like({"typ": "not a JWT"}),
        jwt_like(["alg"]),
        base64.urlsafe_b64encode(b"[" * 4000).decode() + ".e30.x",
    ],
)
def test_a_key_that_only_resembles_a_token_is_taken(text: str) -> None:
    assert parsed(text).secret.reveal() == text


# Which source wins


def test_the_environment_beats_the_settings() -> None:
    source = find_key_source(ApiKeySettings(file="/no/such/file"), {"MOBULA_API_KEY": VALUE})
    assert source.read().secret.reveal() == VALUE
    assert repr(source) == "<KeySource MOBULA_API_KEY>"


def test_the_file_that_the_environment_names_beats_the_settings(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(VALUE + "\n")
    environ = {"MOBULA_API_KEY_FILE": str(tmp_path / "key")}
    source = find_key_source(ApiKeySettings(file="/no/such/file"), environ)
    assert source.read().secret.reveal() == VALUE


def test_the_file_of_the_settings_is_read_when_the_environment_is_silent(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(VALUE)
    source = find_key_source(ApiKeySettings(file=str(tmp_path / "key")), {})
    assert source.read().secret.reveal() == VALUE


def test_two_sources_in_the_environment_are_refused() -> None:
    environ = {"MOBULA_API_KEY": VALUE, "MOBULA_API_KEY_FILE": "/run/key"}
    with pytest.raises(KeyRefusedError, match="are both set: unset one") as caught:
        find_key_source(ApiKeySettings(), environ)
    assert VALUE not in str(caught.value)


def test_an_empty_file_name_in_the_environment_is_refused_as_such() -> None:
    with pytest.raises(KeyRefusedError, match="MOBULA_API_KEY_FILE is set but empty"):
        find_key_source(ApiKeySettings(file="/run/key"), {"MOBULA_API_KEY_FILE": ""})


def test_no_source_at_all_is_refused_with_a_word_on_how_to_give_one() -> None:
    with pytest.raises(KeyRefusedError, match=r"No static key\. Set MOBULA_API_KEY"):
        find_key_source(ApiKeySettings(), {})


def test_an_empty_key_in_the_environment_does_not_fall_back_to_the_settings(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(VALUE)
    source = find_key_source(ApiKeySettings(file=str(tmp_path / "key")), {"MOBULA_API_KEY": ""})
    with pytest.raises(KeyRefusedError, match="from MOBULA_API_KEY is empty"):
        source.read()


def test_a_file_that_is_missing_is_named_with_the_reason(tmp_path: Path) -> None:
    source = KeySource(name=f"file {tmp_path}/key", path=tmp_path / "key")
    with pytest.raises(KeyRefusedError, match=r"read from file .*/key: No such file or directory"):
        source.read()


def test_a_directory_in_place_of_the_file_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(KeyRefusedError, match="Is a directory"):
        KeySource(name="file key", path=tmp_path).read()


def test_a_file_that_is_too_long_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"k" * 10_000_000)
    with pytest.raises(KeyRefusedError, match="longer than"):
        KeySource(name="file key", path=tmp_path / "key").read()


def test_bytes_that_are_no_text_are_refused_like_any_odd_character(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    with pytest.raises(KeyRefusedError, match="outside ASCII"):
        KeySource(name="file key", path=tmp_path / "key").read()


# The store secret

LONG_ENOUGH = "5e" * 16


def store_secret(environ: dict[str, str], file: Path | None = None) -> str | None:
    settings = StoreSecretSettings(file=str(file) if file else None)
    found = find_store_secret(settings, environ, needed=False)
    return found.reveal() if found else None


def test_a_store_secret_comes_from_the_same_kinds_of_sources(tmp_path: Path) -> None:
    file, other = tmp_path / "secret", tmp_path / "other"
    file.write_text(LONG_ENOUGH + "\n")
    other.write_text("x" * 32)
    assert store_secret({}, file) == LONG_ENOUGH
    assert store_secret({"MOBULA_STORE_SECRET_FILE": str(other)}, file) == "x" * 32
    assert store_secret({"MOBULA_STORE_SECRET": "y" * 32}, file) == "y" * 32


def test_a_store_secret_is_no_must_unless_it_is_needed() -> None:
    assert store_secret({}) is None
    with pytest.raises(KeyRefusedError, match=r"No store secret, .* Set MOBULA_STORE_SECRET, or"):
        find_store_secret(StoreSecretSettings(), {}, needed=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty. Set MOBULA_STORE_SECRET, or"),
        (LONG_ENOUGH[:-1], "is shorter than 32 characters"),
        (f"{LONG_ENOUGH} {LONG_ENOUGH}", "holds a space"),
        ("\u00fc" * 32, "a character outside ASCII"),
        ("x" * (MAX_BYTES + 1), "is longer than"),
    ],
    ids=["empty", "short", "space", "umlaut", "long"],
)
def test_a_store_secret_that_cannot_be_one_is_refused_and_not_shown(text: str, why: str) -> None:
    with pytest.raises(KeyRefusedError) as caught:
        store_secret({"MOBULA_STORE_SECRET": text})
    assert str(caught.value).startswith("The store secret from MOBULA_STORE_SECRET ")
    assert why in str(caught.value)
    assert not text or text not in str(caught.value)


def test_a_store_secret_s_file_that_is_missing_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(KeyRefusedError, match=r"The store secret cannot be read from file .*/no:"):
        store_secret({}, tmp_path / "no")


# How a change is noticed


class Watch:
    """Reads what a source that watches `path` yields."""

    def __init__(self, path: Path, key: str | None) -> None:
        self._source = KeySource(name="file key", path=path, poll_seconds=POLL_SECONDS)
        found = self._source.changed(None if key is None else parsed(key))
        self._found = cast("AsyncGenerator[StaticKey | KeyRefusedError, None]", found)

    async def next(self) -> str:
        """The next key, or the reason for having none."""
        async with asyncio.timeout(5):
            found = await anext(self._found)
        return str(found) if isinstance(found, KeyRefusedError) else found.secret.reveal()

    async def nothing(self) -> None:
        """Nothing comes, for a good many polls."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20 * POLL_SECONDS):
                raise AssertionError(await anext(self._found))

    async def close(self) -> None:
        await self._found.aclose()


@contextlib.asynccontextmanager
async def watching(path: Path, key: str | None = None) -> AsyncIterator[Watch]:
    watch = Watch(path, key)
    try:
        yield watch
    finally:
        await watch.close()


async def test_a_key_rewritten_in_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("first")
    async with watching(path, "first") as watch:
        path.write_text("other\n")
        assert await watch.next() == "other"


async def test_a_rewrite_of_the_same_length_with_the_same_times_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("first")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    async with watching(path, "first") as watch:
        path.write_text("other")
        os.utime(path, ns=times)
        assert await watch.next() == "other"


async def test_a_symlink_swap_as_kubernetes_does_it_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(f"key-{name}")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "key").symlink_to("..data/key")
    async with watching(tmp_path / "key", "key-one") as watch:
        (tmp_path / "..new").symlink_to("two")
        (tmp_path / "..new").replace(tmp_path / "..data")
        assert await watch.next() == "key-two"


async def test_the_same_key_again_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("first\n")
    async with watching(path, "first") as watch:
        await watch.nothing()


async def test_every_further_change_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("first")
    async with watching(path, "first") as watch:
        path.write_text("second")
        assert await watch.next() == "second"
        path.write_text("first")
        assert await watch.next() == "first"


async def test_a_file_that_vanished_is_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "key"
    async with watching(path, "first") as watch:
        assert "No such file" in await watch.next()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(20 * POLL_SECONDS):
                await watch.next()


async def test_each_new_reason_for_having_no_key_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "key"
    async with watching(path, "first") as watch:
        assert "No such file" in await watch.next()
        path.write_text("")
        assert "is empty" in await watch.next()
        path.write_text("two words")
        assert "a space" in await watch.next()


async def test_the_old_key_that_comes_back_is_no_change_but_a_new_complaint_is_made(
    tmp_path: Path,
) -> None:
    path = tmp_path / "key"
    async with watching(path, "first") as watch:
        assert "No such file" in await watch.next()
        again = asyncio.ensure_future(watch.next())
        path.write_text("first")
        await asyncio.sleep(20 * POLL_SECONDS)
        assert not again.done()
        path.unlink()
        assert "No such file" in await again


async def test_a_first_key_is_found_when_there_was_none(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("first")
    async with watching(path) as watch:
        assert await watch.next() == "first"


async def test_a_key_of_the_environment_never_changes() -> None:
    source = KeySource(name="MOBULA_API_KEY", value=VALUE)
    assert not source.changes
    assert [each async for each in source.changed(source.read())] == []
