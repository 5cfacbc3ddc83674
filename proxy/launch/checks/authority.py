"""The local CA: whether it is there, for whom it speaks, and whether apps can read it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from proxy.config import Settings
from proxy.launch.checks.files import mode_of, others_may_read, why_not_made
from proxy.launch.report import Line, fail, ok, parted, warn
from proxy.traffic.bundle import BUNDLE, CERTIFICATE
from proxy.traffic.ca import CaError, Change, foresee

CHECK = "local ca"


@dataclass(frozen=True, slots=True)
class Outlook:
    """The CA as the next start will have it, and what it will change for that."""

    folder: Path
    public: Path
    pem: str
    hosts: int
    ends: datetime
    change: Change
    why_not: str
    """What keeps it from being made."""
    hidden: bool
    """Whether apps of other users cannot read it, though it has a place of its own for them."""

    @property
    def is_there(self) -> bool:
        return self.change is not Change.CREATED

    @property
    def certificate(self) -> Path:
        return self.public / CERTIFICATE

    @property
    def bundle(self) -> Path:
        return self.public / BUNDLE


def look(settings: Settings, now: float) -> Outlook:
    """Look at it without making anything; blocking. Raises CaError."""
    found = foresee(settings.ca, settings.upstreams, now)
    certificate = found.public / CERTIFICATE
    return Outlook(
        folder=found.key_file.parent,
        public=found.public,
        pem=found.certificate.public_bytes(Encoding.PEM).decode(),
        hosts=len(found.hosts),
        ends=found.certificate.not_valid_after_utc,
        change=found.change,
        why_not=why_not_made(found.key_file),
        hidden=bool(settings.ca.public_dir)
        and mode_of(certificate) is not None
        and not others_may_read(certificate),
    )


def judge(outlook: Outlook) -> Iterator[Line]:
    folder = str(outlook.folder)
    if outlook.why_not:
        step = "name a folder of this process's own user in ca.dir"
        yield fail(CHECK, folder, f"it cannot be written: {outlook.why_not}", step=step)
    elif not outlook.is_there:
        yield ok(CHECK, folder, "there is none yet; the first start makes it")
    elif outlook.change is Change.NONE:
        found = f"until {outlook.ends.astimezone(UTC):%Y-%m-%d}; hosts: {outlook.hosts}"
        yield ok(CHECK, folder, found)
    else:
        found = f"the next start makes its certificate anew, because {outlook.change.value}"
        step = f"start the proxy, then have apps read {outlook.certificate} again"
        yield warn(CHECK, folder, found, step=step)
    if outlook.hidden:
        found = "apps of other users cannot read it"
        step = f"chmod o+x {outlook.public} and the folders above, or name another ca.public_dir"
        yield warn(CHECK, str(outlook.certificate), found, step=step)


def refused(settings: Settings, error: CaError) -> Line:
    found, remedy = parted(str(error))
    return fail(CHECK, settings.ca.dir or "none", found, step=remedy or "name another in ca.dir")
