"""The tokens of a static key, for people and scripts: what `mobula-proxy tokens` does.

Mobula is asked what there is. The store, unless it is in memory, is asked what the fleet knows, and
told what is revoked; as an operator, who never attends and holds no share.
"""

import json
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.config import Settings, StoreUrl
from proxy.network.dialer import make_dialer_beside
from proxy.ops.client import FAILED, OK, complain
from proxy.settings.values import format_duration
from proxy.tokens.clock import steady
from proxy.tokens.key import StaticKey
from proxy.tokens.mobula import (
    Batch,
    CallError,
    Listed,
    MintError,
    MobulaClient,
    Revocation,
)
from proxy.tokens.model import Inspection, Secret, Standing
from proxy.tokens.store.base import Ending, Order, Permit, Shelved, Store, StoreError, Wait
from proxy.tokens.store.choose import make_seal, make_store

if TYPE_CHECKING:
    from proxy.tokens.store.seal import Seal

INTERRUPTED = Ending(unclear=True, fault="the command that made it was interrupted")
STANDINGS = {
    Standing.ALIVE: "usable",
    Standing.EXHAUSTED: "used up",
    Standing.GONE: "revoked or expired",
    Standing.UNKNOWN: "Mobula gave no clear answer",
}

OUTCOMES = {
    Revocation.REVOKED: "revoked",
    Revocation.NOT_FOUND: "not found: the static key has no active token of this id",
    Revocation.UNCONFIRMED: "not confirmed: it may still be usable",
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command works with; `store` is None where there is none that others could share."""

    mobula: MobulaClient
    key: StaticKey
    seal: "Seal"
    store: Store | None

    async def shelf(self) -> dict[str, Shelved]:
        """Return the tokens that the store has, by id."""
        return {each.id: each for each in await self.store.load()} if self.store else {}

    def is_ours(self, token: Shelved) -> bool:
        """Tell whether this static key minted it: Mobula tells other keys nothing of it."""
        return token.key == self.key.fingerprint


@dataclass(frozen=True, slots=True)
class Row:
    """A token as Mobula lists it and as the store has it; one of the two may not know it."""

    id: str
    listed: Listed | None
    shelved: Shelved | None

    @property
    def remaining(self) -> int | None:
        return self.listed.remaining if self.listed else None

    @property
    def limit(self) -> int | None:
        if self.listed:
            return self.listed.limit
        return self.shelved.limit if self.shelved else None

    @property
    def expires_in(self) -> float | None:
        if self.listed:
            return self.listed.expires_in
        return self.shelved.lives if self.shelved else None


async def at_desk(
    settings: Settings,
    key: StaticKey,
    secret: Secret | None,
    work: Callable[[Desk], Awaitable[int]],
    *,
    begins_store: bool = False,
) -> int:
    """Do the work; return its exit code, or 1 and a line on standard error if it cannot be done."""
    try:
        async with open_desk(settings, key, secret, begins_store=begins_store) as desk:
            return await work(desk)
    except CallError as error:
        again = error.fault.retry_after
        return complain(f"{error}; try again in {again:.0f} s" if again else str(error))
    except StoreError as error:
        return complain(f"{error} (store.url: {settings.store.url})")


@asynccontextmanager
async def open_desk(
    settings: Settings, key: StaticKey, secret: Secret | None, *, begins_store: bool = False
) -> AsyncIterator[Desk]:
    """Give a desk, and raise StoreError if its store cannot be opened.

    A store in a file that is not there yet is no store, unless the work `begins_store`: the file
    would belong to whoever looked for it first.
    """
    seal = make_seal(secret or key.secret)
    first = next(iter(settings.upstreams.values()))
    wanted = begins_store or _is_there(settings.store.url)
    async with (
        MobulaClient(
            first.url,
            address=first.address,
            ca_file=first.ca_file,
            dialer=make_dialer_beside(settings),
        ) as mobula,
        _opened(settings.store.url, seal if wanted else None) as store,
    ):
        yield Desk(mobula, key, seal, store)


def _is_there(url: StoreUrl) -> bool:
    return url.file is None or Path(url.file).exists()


@asynccontextmanager
async def _opened(url: StoreUrl, seal: "Seal | None") -> AsyncIterator[Store | None]:
    if url.in_memory or seal is None:
        yield None
        return
    store = make_store(url, seal.shelf)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


# List and inspect


async def show_list(desk: Desk, *, as_json: bool) -> int:
    """Print all tokens that are active, and what the store knows of them."""
    rows = await _rows(desk)
    place = desk.store.place if desk.store else None
    if as_json:
        _print_json({"store": place, "tokens": [_row_json(desk, row) for row in rows]})
    elif rows:
        _print_table(
            ["ID", "LEFT", "LIMIT", "EXPIRES IN", *(["STORE"] if desk.store else [])],
            [_row_cells(desk, row) for row in rows],
        )
    else:
        sys.stdout.write("no active tokens\n")
    return OK


async def show_token(desk: Desk, token_id: str, *, as_json: bool) -> int:
    """Print all that is known of one token; return 1 if there is none of that id."""
    row = next((row for row in await _rows(desk) if row.id == token_id), None)
    if row is None:
        return complain(f"no active token of this static key has the id {token_id}")
    found = await _inspect(desk, row)
    if as_json:
        inspection = found and {"standing": found.standing.value, "remaining": found.remaining}
        _print_json(_row_json(desk, row) | {"inspection": inspection})
        return OK
    details = {
        "id": row.id,
        "left": f"{_text(row.remaining)} of {_text(row.limit)}",
        "expires in": _span(row.expires_in),
        **({"store": _store_text(row)} if desk.store else {}),
        **({"inspect": _inspection_text(found)} if found else {}),
    }
    _print_table([], [[f"{name}:", value] for name, value in details.items()])
    return OK


async def _rows(desk: Desk) -> list[Row]:
    """Return the tokens that Mobula lists for the key, or that the store takes for its own."""
    listed = {each.id: each for each in await desk.mobula.list(desk.key.secret)}
    shelf = {name: each for name, each in (await desk.shelf()).items() if desk.is_ours(each)}
    rows = [Row(name, listed.get(name), shelf.get(name)) for name in {**listed, **shelf}]
    return sorted(rows, key=lambda row: (row.expires_in or 0.0, row.id))


async def _inspect(desk: Desk, row: Row) -> Inspection | None:
    """Ask about a token whose value the store has; None where it has not."""
    value = desk.seal.open(row.id, row.shelved.sealed) if row.shelved else None
    return await desk.mobula.inspect_value(value, desk.key.secret) if value else None


def _inspection_text(found: Inspection) -> str:
    left = "" if found.remaining is None else f", {found.remaining} left"
    return STANDINGS[found.standing] + left


def _row_json(desk: Desk, row: Row) -> Json:
    shelved = row.shelved
    return {
        "id": row.id,
        "listed": row.listed is not None,
        "remaining": row.remaining,
        "limit": row.limit,
        "expires_in": row.expires_in and round(row.expires_in, 3),
        "ours": (shelved is not None) if desk.store else None,
        "free": shelved.free if shelved else None,
        "retired": shelved.retired if shelved else None,
    }


def _row_cells(desk: Desk, row: Row) -> list[str]:
    cells = [row.id, _text(row.remaining), _text(row.limit), _span(row.expires_in)]
    return [*cells, _store_text(row)] if desk.store else cells


def _store_text(row: Row) -> str:
    if row.shelved is None:
        return "not ours"
    state = "retired" if row.shelved.retired else f"ours, {row.shelved.free} free"
    return state if row.listed else f"{state}, unknown to Mobula"


# Create


async def create(desk: Desk, order: Order, *, as_json: bool) -> int:
    """Make tokens and print them; they are not put on the shelf."""
    made = await make(desk, order)
    if isinstance(made, Wait):
        return complain(refusal(made))
    return _show_batch(made, as_json=as_json)


async def make(desk: Desk, order: Order) -> Batch | Wait:
    """Make tokens, unless the store gives no leave to. Raises MintError and StoreError."""
    permit = await desk.store.permit(order) if desk.store else None
    if isinstance(permit, Wait):
        return permit
    ending = INTERRUPTED
    try:
        batch = await desk.mobula.mint(
            desk.key.secret,
            count=order.count,
            expires_in=order.lifetime,
            request_limit=order.limit,
        )
        ending = Ending()
    except MintError as error:
        ending = Ending.of_failure(error.fault, error.fault.retry_after or 0.0)
        raise
    else:
        return batch
    finally:
        await _end(desk, permit, ending)


def refusal(wait: Wait) -> str:
    """Say why there is no leave to make a creation call, and when to come back."""
    why = "another process is minting" if wait.minting else "the mint budget is used up"
    return f"{why}; try again in {max(1, math.ceil(wait.seconds))} s"


async def _end(desk: Desk, permit: Permit | None, ending: Ending) -> None:
    if desk.store and permit:
        try:
            await desk.store.end(permit, ending)
        except StoreError as error:
            sys.stderr.write(f"mobula-proxy: the store counts this call for longer: {error}\n")


def _show_batch(batch: Batch, *, as_json: bool) -> int:
    now = steady()
    made = [(each.id, each.limit, each.expires_at - now, each.secret) for each in batch.tokens]
    if as_json:
        _print_json(
            {
                "tokens": [
                    {"id": name, "limit": limit, "expires_in": round(lives, 3),
                     "token": value.reveal()}
                    for name, limit, lives, value in made
                ]
            }
        )  # fmt: skip
    else:
        rows = [
            [name, str(limit), _span(lives), value.reveal()] for name, limit, lives, value in made
        ]
        _print_table(["ID", "LIMIT", "EXPIRES IN", "TOKEN"], rows)
    for text in batch.unreadable:
        complain(f"Mobula made a token that cannot be read: {text}")
    return FAILED if batch.unreadable else OK


# Revoke


async def revoke(desk: Desk, ids: Sequence[str] | None, *, as_json: bool) -> int:
    """Revoke these tokens, or all that Mobula lists, and tell what became of each.

    Return 1 unless Mobula confirmed each that was named, and that none of all is left.
    """
    shelf = await desk.shelf()
    wanted = [each.id for each in await desk.mobula.list(desk.key.secret)] if ids is None else ids
    outcomes = {name: await _revoke(desk, shelf.get(name), name) for name in dict.fromkeys(wanted)}
    if as_json:
        told = [{"id": name, "outcome": each.value} for name, each in outcomes.items()]
        _print_json({"tokens": told})
    elif outcomes:
        _print_table([], [[name, OUTCOMES[each]] for name, each in outcomes.items()])
    else:
        sys.stdout.write("no active tokens\n")
    well = {Revocation.REVOKED} | ({Revocation.NOT_FOUND} if ids is None else set())
    return OK if well.issuperset(outcomes.values()) else FAILED


async def _revoke(desk: Desk, shelved: Shelved | None, name: str) -> Revocation:
    """Revoke a token at Mobula, and take it from the store: nobody is granted it meanwhile."""
    if desk.store is None or shelved is None:
        return await desk.mobula.revoke_id(name, desk.key.secret)
    if not desk.is_ours(shelved):
        return Revocation.UNCONFIRMED
    await desk.store.retire(name)
    outcome = await desk.mobula.revoke_id(name, desk.key.secret)
    if outcome is not Revocation.UNCONFIRMED:
        await desk.store.remove(name)
    return outcome


# Printing


def _text(number: int | None) -> str:
    return "?" if number is None else str(number)


def _span(seconds: float | None) -> str:
    return "?" if seconds is None else format_duration(max(0, round(seconds)))


def _print_json(value: Json) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as they need to be, two spaces between them."""
    lines = [head, *rows] if head else rows
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
