"""The local CA: what makes apps that speak TLS to `api.mobula.io` believe that they do.

It is made on first use and kept in a folder of its own. Processes with one folder have the same CA.
Beside it, or elsewhere, lies what apps read to trust it.
"""

import contextlib
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from proxy import private
from proxy.config import CaSettings
from proxy.settings.places import host_of
from proxy.traffic.bundle import (
    FILE_MODE,
    Files,
    Roots,
    bundle,
    certificates_at,
    certificates_in,
    publish,
    system_roots,
)
from proxy.traffic.ca_file import CaError, Change, foreseen, take_up, together
from proxy.traffic.certificates import EARLY_SECONDS, LEAF_SECONDS, Authority, Leaf
from proxy.traffic.tls import bare_context

__all__ = ["CaError", "CaUnsetError", "Change", "LocalCA", "foresee", "open_ca"]

KEY_FILE = "ca-key.pem"
LOCK_SECONDS = 10.0
"""How long another process may take to make or publish the CA."""
LEAF_RENEWAL_SECONDS = LEAF_SECONDS / 2
"""How long a leaf is shown: what remains of it is for clients whose clock is ahead."""


class CaUnsetError(CaError):
    """The settings do not say where it should be."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A context, and when it may be used."""

    context: ssl.SSLContext
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Foreseen:
    """The CA as it will be once it is opened, and what that will change."""

    certificate: x509.Certificate
    hosts: frozenset[str]
    change: Change
    key_file: Path
    public: Path
    """The folder for apps."""


class LocalCA:
    """The local CA, as one process uses it; `context` is all that a listener needs."""

    def __init__(
        self,
        authority: Authority,
        folder: Path,
        files: Files,
        change: Change,
        clock: Callable[[], float],
    ) -> None:
        """Use `open` or `open_ca`."""
        self.hosts = authority.hosts
        self.certificate = authority.certificate
        self.key_file = folder / KEY_FILE
        self.files = files
        self.change = change
        self._authority = authority
        self._folder = folder
        self._clock = clock
        self._shown: dict[str, _Shown] = {}

    def __repr__(self) -> str:
        return f"<LocalCA for {', '.join(sorted(self.hosts))}>"

    @classmethod
    def open(
        cls,
        folder: Path,
        hosts: Iterable[str],
        *,
        public: Path | None = None,
        anew: bool = False,
        clock: Callable[[], float] = time.time,
        roots: Callable[[], Roots] = system_roots,
    ) -> Self:
        """Return the CA of the folder, for these hosts and those that it had; make what is missing.

        What apps read is written to `public`, or to the folder itself. One that is made `anew` has
        another key, and these hosts only. It waits for other processes, and for the disk.
        Raises CaError.
        """
        folder, public = folder.absolute(), (public or folder).absolute()
        with _plain_errors(folder), private.locked(folder, "the local CA", LOCK_SECONDS):
            authority, change = take_up(folder / KEY_FILE, frozenset(hosts), clock(), anew=anew)
            certificate = authority.certificate.public_bytes(Encoding.PEM).decode()
            files = _published(certificate, public, roots)
        return cls(authority, folder, files, change, clock)

    @property
    def pem(self) -> str:
        """The certificate that apps are to trust."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, as other tools print it."""
        return self.certificate.fingerprint(SHA256()).hex(":").upper()

    def context(self, host: str) -> ssl.SSLContext:
        """Return what shows clients the certificate for a host, written as `host_of` does.

        Call it for each handshake: certificates are renewed long before they expire. Raises CaError
        for a host that the CA does not speak for, and when its own time is over; OSError when the
        system has no file left for the making.
        """
        now = self._clock()
        shown = self._shown.get(host)
        if shown is None or not shown.since <= now < shown.until:
            shown = self._shown[host] = self._show(host, now)
        return shown.context

    def _show(self, host: str, now: float) -> _Shown:
        if host not in self.hosts:
            raise CaError(f"the local CA does not speak for {host!r}")
        if not self._authority.is_valid(now):
            raise CaError("the certificate of the local CA is not valid now: restart the proxy")
        context = bare_context()
        _load(context, self._authority.sign(host, now), self._folder)
        until = min(now + LEAF_RENEWAL_SECONDS, self._authority.ends)
        return _Shown(context, now - EARLY_SECONDS, until)

    def write_bundle(self, path: Path, *others: str | Path) -> None:
        """Write what trusts the CA, and all that stands in other PEM texts, files and folders.

        It is for an app that was told to trust these. Raises OSError.
        """
        given = (
            certificates_in(each) if isinstance(each, str) else certificates_at(each)
            for each in others
        )
        content = bundle(self.pem, chain.from_iterable(given))
        private.replace(path, content.encode(), FILE_MODE)


def open_ca(settings: CaSettings, upstreams: Iterable[str], *, anew: bool = False) -> LocalCA:
    """Open the CA where the settings say, for the upstreams of these names. Raises CaError."""
    public = Path(settings.public_dir) if settings.public_dir else None
    return LocalCA.open(_folder_of(settings), map(host_of, upstreams), public=public, anew=anew)


def foresee(settings: CaSettings, upstreams: Iterable[str], now: float) -> Foreseen:
    """Return what `open_ca` would make of the CA; nothing is made or written. Raises CaError."""
    folder, hosts = _folder_of(settings).absolute(), frozenset(map(host_of, upstreams))
    with _plain_errors(folder):
        if folder.exists():
            private.refuse_others(folder, "the local CA")
        authority, change = foreseen(folder / KEY_FILE, hosts, now)
    public = Path(settings.public_dir).absolute() if settings.public_dir else folder
    return Foreseen(authority.certificate, authority.hosts, change, folder / KEY_FILE, public)


def _folder_of(settings: CaSettings) -> Path:
    if settings.dir is None:
        raise CaUnsetError(
            "there is no place for the local CA: set ca.dir, or state_dir "
            "(the environment has neither HOME nor XDG_STATE_HOME)"
        )
    return Path(settings.dir)


def _load(context: ssl.SSLContext, leaf: Leaf, folder: Path) -> None:
    """Give a context its leaf: by way of a file, as `ssl` knows no other.

    The CA's certificate is left out: whoever has not got it would not trust it anyway.
    """
    with private.fleeting(together(leaf.key, leaf.certificate), folder) as path:
        context.load_cert_chain(path)


def _published(certificate: str, folder: Path, roots: Callable[[], Roots]) -> Files:
    try:
        return publish(certificate, folder, roots)
    except OSError as error:
        raise CaError(
            f"cannot write for apps to {folder}: {error.strerror}; name another folder in "
            "ca.public_dir"
        ) from error


@contextlib.contextmanager
def _plain_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (private.RefusedError, private.BusyError) as error:
        raise CaError(str(error)) from error
    except OSError as error:
        raise CaError(
            f"cannot keep the local CA in {folder}: {error.strerror}; name another folder in ca.dir"
        ) from error
