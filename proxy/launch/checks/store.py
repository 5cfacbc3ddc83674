"""The store: whether it can be had, and whether it is the right fleet's."""

from dataclasses import dataclass
from pathlib import Path

from proxy.config import StoreUrl
from proxy.launch.checks.files import mode_of, why_not_made
from proxy.launch.report import Line, fail, ok, parted, skip, warn
from proxy.tokens.model import Secret
from proxy.tokens.store.base import StoreError
from proxy.tokens.store.choose import make_seal, make_store

CHECK = "store"


@dataclass(frozen=True, slots=True)
class Shelves:
    """What a store holds: tokens of ours, and shelves that are sealed with other secrets."""

    ours: int
    others: int


async def examine(url: StoreUrl, seal: Secret | None) -> Line:
    """Open the store as an operator, who holds no share; a file that is not there is not made."""
    if url.in_memory:
        return ok(CHECK, str(url), "tokens end with the process, and nobody shares them")
    if seal is None:
        return skip(CHECK, str(url), "not opened, because there is nothing to unseal it with")
    if url.file is not None and mode_of(Path(url.file)) is None:
        return judge_absent(url, why_not_made(Path(url.file)))
    try:
        return judge(url, await _opened(url, seal))
    except StoreError as error:
        return failed(url, error)


async def _opened(url: StoreUrl, seal: Secret) -> Shelves:
    store = make_store(url, make_seal(seal).shelf)
    try:
        others = await store.open()
        return Shelves(len(await store.load()), others)
    finally:
        await store.close()


def judge(url: StoreUrl, shelves: Shelves) -> Line:
    if shelves.others and not shelves.ours:
        return warn(
            CHECK,
            str(url),
            f"it has no token of ours, but those of {shelves.others} with another key or secret",
            step="if they are your own fleet, give all of it the same store secret (or static key)",
        )
    beside = f", shelves of others: {shelves.others}" if shelves.others else ""
    return ok(CHECK, str(url), f"opened; tokens of ours in it: {shelves.ours}{beside}")


def judge_absent(url: StoreUrl, why_not: str) -> Line:
    if why_not:
        step = "set store.url, or state_dir, to a place of this process's own user"
        return fail(CHECK, str(url), f"it cannot be made: {why_not}", step=step)
    return ok(CHECK, str(url), "not there yet; the first start makes it")


def failed(url: StoreUrl, error: StoreError) -> Line:
    found, remedy = parted(str(error))
    if url.file is not None:
        usual = "run doctor as the proxy's own user; if it is that, name another file in store.url"
    else:
        usual = "see that the server of store.url runs, lets this machine in and takes the password"
    return fail(CHECK, str(url), found, step=remedy or usual)
