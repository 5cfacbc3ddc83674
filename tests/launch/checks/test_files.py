"""Who may read a file, and who could make it."""

from pathlib import Path

import pytest

from proxy.launch.checks.files import mode_of, others_may_read, why_not_made


@pytest.mark.parametrize(
    ("file", "way", "readable"),
    [(0o644, 0o755, True), (0o640, 0o755, False), (0o600, 0o711, False), (0o644, 0o700, False)],
)
def test_others_may_read_what_is_open_and_lies_on_an_open_way(
    open_folder: Path, file: int, way: int, *, readable: bool
) -> None:
    (open_folder / "way").mkdir()
    path = open_folder / "way" / "key"
    path.touch()
    path.chmod(file)
    (open_folder / "way").chmod(way)
    assert others_may_read(path) is readable


def test_a_link_is_as_open_as_what_it_leads_to(open_folder: Path) -> None:
    (open_folder / "key").touch(0o600)
    (open_folder / "link").symlink_to(open_folder / "key")
    assert not others_may_read(open_folder / "link")


def test_nobody_reads_what_is_not_there(tmp_path: Path) -> None:
    assert not others_may_read(tmp_path / "key")


def test_a_file_in_a_folder_of_ours_can_be_made(tmp_path: Path) -> None:
    assert why_not_made(tmp_path / "a" / "b" / "file") == ""


def test_a_file_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert why_not_made(tmp_path / "a" / "file") == f"{tmp_path / 'a'} is no folder"


def test_a_file_in_a_folder_of_others_cannot_be_made(closed_folder: Path) -> None:
    file = closed_folder / "a" / "file"
    assert why_not_made(file) == f"this user may not write to {closed_folder}"


def test_what_this_user_cannot_see_is_as_good_as_not_there(closed_folder: Path) -> None:
    assert mode_of(closed_folder / "file") is None
    assert not others_may_read(closed_folder / "file")
