"""Stores that must not be used as they are set: the command says so in one line, and ends."""

from pathlib import Path

import pytest

from harness import SecretScan, finished
from processes import WITH_KEY, WITHOUT_KEY


def refusal(
    scan: SecretScan, *settings: str, environ: dict[str, str] = WITH_KEY
) -> tuple[int, str]:
    """Return the exit code, and the last of what was printed: the only line, or below a title."""
    free = ["admin.bind=127.0.0.1:0", 'listeners=[{"bind": "127.0.0.1:0"}]', *settings]
    sets = [part for setting in free for part in ("--set", setting)]
    code, out, err = finished("serve", *sets, scan=scan, environ=environ)
    *title, line = (out + err).splitlines()
    assert title in ([], ["mobula-proxy: 1 problem with the settings:"])
    return code, line


def test_a_file_that_is_no_store_is_refused(scan: SecretScan, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("These are no tokens. " * 100)
    code, line = refusal(scan, f"store.url=sqlite:///{tmp_path}/notes.txt")
    assert (code, "is no store of ours, or damaged" in line) == (1, True)


def test_a_folder_that_others_can_write_to_is_refused(scan: SecretScan, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o777)
    code, line = refusal(scan, f"state_dir={folder}")
    assert (code, f"others can write to {folder}" in line) == (1, True)


def test_a_folder_that_cannot_be_made_is_refused(scan: SecretScan, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, line = refusal(scan, f"state_dir={tmp_path}/file/state")
    assert (code, f"{tmp_path}/file/state: Not a directory" in line) == (1, True)


@pytest.mark.parametrize("url", ["redis:/nowhere", "postgres://127.0.0.1", "sqlite://tokens.db"])
def test_a_mistyped_url_is_refused(scan: SecretScan, url: str) -> None:
    code, line = refusal(scan, f"store.url={url}")
    assert (code, "store.url" in line) == (2, True)


def test_a_member_that_could_share_with_nobody_is_refused(scan: SecretScan) -> None:
    code, line = refusal(scan, "role=member", environ=WITHOUT_KEY)
    assert (code, "nobody could mint for it" in line) == (2, True)


def test_a_member_without_the_secret_of_the_store_is_refused(
    scan: SecretScan, tmp_path: Path
) -> None:
    code, line = refusal(scan, "role=member", f"state_dir={tmp_path}/state", environ={})
    assert (code, "No store secret" in line) == (2, True)
