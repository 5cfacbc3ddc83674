"""The local CA as doctor sees it, without making or changing anything."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness import settings_for
from proxy.config import Settings
from proxy.launch.checks.authority import Outlook, judge, look, refused
from proxy.launch.report import fail, ok
from proxy.traffic.ca import CaError, Change, LocalCA, open_ca
from proxy.traffic.certificates import CA_SECONDS, DAY

FOLDER = Path("/ca")
STEP = "start the proxy, then have apps read /ca/ca.pem again"


def outlook(change: Change = Change.NONE, *, why_not: str = "", hidden: bool = False) -> Outlook:
    ends = datetime(2031, 5, 6, tzinfo=UTC)
    return Outlook(FOLDER, FOLDER, "", 8, ends, change, why_not, hidden)


def judged(seen: Outlook) -> list[tuple[str, str, str]]:
    return [(each.grade.value, each.subject, each.found) for each in judge(seen)]


# What is said


def test_one_that_stays_as_it_is_is_told_with_its_hosts_and_its_end() -> None:
    assert list(judge(outlook())) == [ok("local ca", "/ca", "until 2031-05-06; hosts: 8")]


def test_one_that_is_not_there_is_made_by_the_first_start() -> None:
    found = "there is none yet; the first start makes it"
    assert judged(outlook(Change.CREATED)) == [("ok", "/ca", found)]


def test_one_that_can_never_be_made_is_told() -> None:
    seen = outlook(Change.CREATED, why_not="this user may not write to /")
    found = "it cannot be written: this user may not write to /"
    assert judged(seen) == [("fail", "/ca", found)]


@pytest.mark.parametrize("change", [Change.EXTENDED, Change.RENEWED, Change.MENDED])
def test_one_that_the_next_start_makes_anew_is_warned_of(change: Change) -> None:
    (line,) = judge(outlook(change))
    assert line.found == f"the next start makes its certificate anew, because {change.value}"
    assert (line.grade.value, line.step) == ("warn", STEP)


def test_a_file_for_all_that_not_all_can_read_is_warned_of() -> None:
    assert judged(outlook(hidden=True))[1:] == [
        ("warn", "/ca/ca.pem", "apps of other users cannot read it")
    ]


@pytest.mark.parametrize(
    ("error", "found", "step"),
    [
        (
            "others can read f, and so sign as the local CA: run `chmod 600 f`",
            "others can read f, and so sign as the local CA",
            "run `chmod 600 f`",
        ),
        (
            "cannot keep the local CA in /ca: Not a directory; name another folder in ca.dir",
            "cannot keep the local CA in /ca: Not a directory",
            "name another folder in ca.dir",
        ),
    ],
)
def test_one_that_must_not_be_used_is_told_with_the_remedy(
    error: str, found: str, step: str
) -> None:
    settings = settings_for("https://api.test", ca={"dir": "/ca"})
    assert refused(settings, CaError(error)) == fail("local ca", "/ca", found, step=step)


# What is looked at


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for("https://api.test", ca={"dir": str(tmp_path / "ca")})


def opened(settings: Settings) -> LocalCA:
    return open_ca(settings.ca, settings.upstreams)


def test_to_look_makes_nothing(settings: Settings, tmp_path: Path) -> None:
    seen = look(settings, time.time())
    assert (seen.is_there, seen.why_not) == (False, "")
    assert not (tmp_path / "ca").exists()


def test_what_it_is_is_seen_and_left_alone(settings: Settings, tmp_path: Path) -> None:
    ca = opened(settings)
    before = [(each.name, each.stat().st_mtime_ns) for each in (tmp_path / "ca").iterdir()]
    seen = look(settings, time.time())
    assert (seen.change, seen.hosts, seen.pem) == (Change.NONE, 1, ca.pem)
    assert (seen.certificate, seen.bundle) == (ca.files.certificate, ca.files.bundle)
    assert before == [(each.name, each.stat().st_mtime_ns) for each in (tmp_path / "ca").iterdir()]


def test_hosts_that_it_does_not_speak_for_are_seen(settings: Settings) -> None:
    opened(settings)
    upstreams: dict[str, dict[str, str]] = {"a.test": {}, "b.test": {}}
    more = settings_for("https://api.test", ca={"dir": settings.ca.dir}, upstreams=upstreams)
    assert look(more, time.time()).change is Change.EXTENDED


def test_its_last_year_is_seen(settings: Settings) -> None:
    opened(settings)
    assert look(settings, time.time() + CA_SECONDS - 300 * DAY).change is Change.RENEWED


def test_a_key_that_others_can_read_is_refused(settings: Settings, tmp_path: Path) -> None:
    opened(settings)
    (tmp_path / "ca" / "ca-key.pem").chmod(0o644)
    with pytest.raises(CaError, match="others can read "):
        look(settings, time.time())


def test_a_folder_that_others_can_write_to_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca").chmod(0o777)
    with pytest.raises(CaError, match="others can write to "):
        look(settings, time.time())


def test_without_a_place_it_is_refused() -> None:
    with pytest.raises(CaError, match="there is no place for the local CA"):
        look(settings_for("https://api.test"), time.time())


@pytest.mark.parametrize(("mode", "hidden"), [(0o755, False), (0o700, True)])
def test_a_place_of_its_own_for_apps_is_to_be_open_for_all(
    settings: Settings, open_folder: Path, mode: int, *, hidden: bool
) -> None:
    ca = {"dir": settings.ca.dir, "public_dir": str(open_folder / "public")}
    settings = settings_for("https://api.test", ca=ca)
    opened(settings)
    (open_folder / "public").chmod(mode)
    assert look(settings, time.time()).hidden is hidden
