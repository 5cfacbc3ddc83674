"""Private folders and files: written whole, seen by nobody else, locked for others."""

import os
from pathlib import Path

import pytest

from proxy import private


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("mask", [0, 0o077])
def test_a_file_has_the_mode_that_it_is_given(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        private.replace(tmp_path / "secret", b"a secret")
        private.replace(tmp_path / "public", b"no secret", 0o644)
    finally:
        os.umask(before)
    assert (mode(tmp_path / "secret"), mode(tmp_path / "public")) == (0o600, 0o644)


def test_a_file_takes_the_place_of_another_whatever_mode_that_had(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"long before")
    path.chmod(0o666)
    private.replace(path, b"now")
    assert (path.read_bytes(), mode(path)) == (b"now", 0o600)


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"of others")
    (tmp_path / "file").symlink_to(target)
    (tmp_path / ".file.new").symlink_to(target)
    private.replace(tmp_path / "file", b"ours")
    assert (target.read_bytes(), (tmp_path / "file").read_bytes()) == (b"of others", b"ours")
    assert not (tmp_path / "file").is_symlink()


def test_what_a_killed_process_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".file.new").write_bytes(b"half a f")
    private.replace(tmp_path / "file", b"whole")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_be_put_there_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        private.replace(tmp_path / "file", b"content")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_locked_for_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with (
        private.locked(folder, "the store", 1.0),
        pytest.raises(private.BusyError, match=f"other processes keep {folder} locked"),
        private.locked(folder, "the store", 0.05),
    ):
        pass
    with private.locked(folder, "the store", 0.05):
        assert mode(folder) == 0o700


@pytest.mark.parametrize("in_memory", sorted({private.HAS_MEMORY, False}))
def test_a_fleeting_file_is_ours_alone_and_then_gone(tmp_path: Path, in_memory: bool) -> None:
    with private.fleeting(b"content", tmp_path, in_memory=in_memory) as path:
        assert Path(path).read_bytes() == Path(path).read_bytes() == b"content"
        assert any(tmp_path.iterdir()) is not in_memory
        assert in_memory or mode(Path(path)) == 0o600
    assert not Path(path).exists()
    assert list(tmp_path.iterdir()) == []
