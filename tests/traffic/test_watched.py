"""Files that are read again when they change; time leaps, so nobody waits for a look at them."""

import asyncio
import os
from pathlib import Path

import pytest

from harness import nothing_left, until
from proxy.traffic.fact import Reread
from proxy.traffic.watched import POLL_SECONDS, Watched

pytestmark = pytest.mark.virtual_time


class Reader:
    """Takes in what stands in files, all of it; what begins with `wrong` it refuses."""

    def __init__(self, *files: Path) -> None:
        self.files = files
        self.name = str(files[0])
        self.took: list[str] = []
        self.told: list[Reread] = []

    def write(self, *texts: str) -> None:
        for file, text in zip(self.files, texts, strict=True):
            file.write_text(text)

    def remove(self) -> None:
        self.files[0].unlink()

    def date_back(self) -> None:
        os.utime(self.files[0], (1, 1))

    def take(self) -> None:
        text = "|".join(each.read_text() for each in self.files)
        if text.startswith("wrong"):
            raise ValueError("it begins wrong")
        self.took.append(text)

    def watched(self, poll_seconds: float = POLL_SECONDS) -> Watched:
        names = [str(each) for each in self.files]
        return Watched(names, self.take, self.told.append, poll_seconds=poll_seconds)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    reader = Reader(tmp_path / "file")
    reader.write("first")
    return reader


async def looked(times: int = 3) -> None:
    """Return once they have been looked at that often."""
    await asyncio.sleep(times * POLL_SECONDS + 0.1)


async def test_files_are_read_once_at_the_start(reader: Reader) -> None:
    async with reader.watched():
        await looked()
    assert (reader.took, reader.told) == (["first"], [])


async def test_file_that_is_wrong_at_the_start_is_so_at_once(reader: Reader) -> None:
    reader.write("wrong")
    with pytest.raises(ValueError, match="it begins wrong"):
        reader.watched()
    reader.remove()
    with pytest.raises(FileNotFoundError):
        reader.watched()


async def test_changed_file_is_read_again_once(reader: Reader) -> None:
    async with reader.watched():
        reader.write("second")
        await looked()
    assert reader.took == ["first", "second"]
    assert reader.told == [Reread(reader.name)]


async def test_change_is_noticed_within_the_time_between_two_looks(reader: Reader) -> None:
    async with reader.watched(poll_seconds=0.5):
        reader.write("second")
        await asyncio.sleep(0.6)
        assert reader.took == ["first", "second"]


async def test_file_that_was_only_touched_is_not_read_again(reader: Reader) -> None:
    async with reader.watched():
        reader.date_back()
        await looked()
    assert (reader.took, reader.told) == (["first"], [])


async def test_rewrite_that_changes_neither_size_nor_times_is_noticed(reader: Reader) -> None:
    reader.date_back()
    async with reader.watched():
        reader.write("secon")
        reader.date_back()
        await looked()
    assert reader.took == ["first", "secon"]


async def test_link_that_leads_elsewhere_is_noticed(tmp_path: Path) -> None:
    """As Kubernetes updates a mounted Secret: all its files at once, behind one link."""
    for each in ("old", "new"):
        (tmp_path / each).mkdir()
        (tmp_path / each / "file").write_text(each)
    (tmp_path / "..data").symlink_to("old")
    (tmp_path / "file").symlink_to("..data/file")
    reader = Reader(tmp_path / "file")
    async with reader.watched():
        (tmp_path / "..data_tmp").symlink_to("new")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await looked()
    assert reader.took == ["old", "new"]


async def test_wrong_file_is_told_once_and_what_was_read_stays(reader: Reader) -> None:
    async with reader.watched():
        reader.write("wrong")
        await looked()
        assert reader.told == [Reread(reader.name, "it begins wrong")]
        reader.write("second")
        await looked()
    assert reader.took == ["first", "second"]
    assert reader.told[1:] == [Reread(reader.name)]


async def test_missing_file_is_told_once_and_read_when_it_is_back(reader: Reader) -> None:
    async with reader.watched():
        reader.remove()
        await looked()
        (missing,) = reader.told
        assert "No such file" in missing.problem
        reader.write("first")
        await looked()
    assert reader.took == ["first", "first"]


async def test_change_of_any_of_several_has_all_read(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "a", tmp_path / "b")
    reader.write("a", "b")
    async with reader.watched():
        reader.write("a", "c")
        await looked()
        reader.write("", "ac")
        await looked()
    assert reader.took == ["a|b", "a|c", "|ac"]


async def test_change_between_the_first_look_and_the_watch_is_not_missed(reader: Reader) -> None:
    watched = reader.watched()
    reader.write("second")
    async with watched:
        await looked()
    assert reader.took == ["first", "second"]


async def test_nothing_is_left_behind(reader: Reader) -> None:
    async with nothing_left(), reader.watched():
        await until(lambda: len(asyncio.all_tasks()) > 1)
