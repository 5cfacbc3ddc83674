"""The store in memory, where it is not one of a fleet."""

from proxy.tokens.budget import CALLS
from proxy.tokens.store.base import Order, Permit, Report, Shelved, Tally
from proxy.tokens.store.memory import MemoryStore
from proxy.tokens.store.shelf import Shelf
from proxy.tokens.store.tallies import Tallies

T = "token-t"
TOKEN = Shelved(T, b"sealed", "fingerprint", 0.0, 3600.0, 100, 100, 0, True)


async def test_a_store_of_its_own_is_private() -> None:
    one, other = MemoryStore(), MemoryStore()
    await one.add([TOKEN])
    assert one.private
    assert await other.load() == []


async def test_a_store_with_a_shelf_shares_it() -> None:
    shelf = Shelf(lambda: 0.0)
    one, other = MemoryStore(shelf), MemoryStore(shelf)
    await one.add([TOKEN])
    assert not one.private
    assert await other.load() == [TOKEN]


async def test_a_store_that_cannot_fail_holds_no_call_back() -> None:
    store = MemoryStore(clock=lambda: 0.0)
    roll = await store.attend(Report(rate=1.0))
    assert (roll.permits, roll.right) == (CALLS, False)
    assert isinstance(await store.permit(Order(1, 100, 3600.0)), Permit)


async def test_it_has_nothing_to_open_or_close() -> None:
    store = MemoryStore()
    assert await store.open() == 0
    await store.close()
    await store.add([TOKEN])
    assert [each.id for each in await store.load()] == [T]


async def test_its_repr_tells_what_is_on_the_shelf() -> None:
    store = MemoryStore()
    await store.add([TOKEN])
    await store.attend(Report(rate=1.0))
    assert repr(store) == "<MemoryStore of <Shelf 1 tokens, 1 sharers>>"


async def test_tallies_of_its_own_are_private_too() -> None:
    one, other, told = MemoryStore(), MemoryStore(), {"client": Tally(5)}
    assert await one.tally(20_000, told) == await other.tally(20_000, told) == {"client": 5}


def test_tallies_tell_of_how_many_days_they_are() -> None:
    tallies = Tallies()
    tallies.tell(20_000, {"client": Tally(5), "other": Tally(0)})
    assert repr(tallies) == "<Tallies of 1 days>"
