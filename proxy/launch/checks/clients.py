"""What listeners that authenticate, or speak TLS, need: their files, and a word with Kubernetes."""

from collections.abc import Iterator
from pathlib import Path

from proxy.config import Settings, SettingsError, read_clients
from proxy.launch.report import Line, fail, ok
from proxy.traffic.server_certificate import ServerCertificate

CLIENTS_CHECK, TLS_CHECK = "clients", "listener tls"


def look(settings: Settings) -> Iterator[Line]:
    """Look at each file that the settings name; blocking."""
    for index, listener in enumerate(settings.listeners):
        if (certificate := ServerCertificate.of(listener.tls)) is not None:
            yield _certificate(f"listeners[{index}].tls", certificate)
    if any(each.authenticate for each in settings.listeners):
        yield from _clients(settings)


def _certificate(setting: str, certificate: ServerCertificate) -> Line:
    try:
        certificate.take()
    except ValueError as error:
        return fail(TLS_CHECK, setting, str(error), step=f"correct the files that {setting} names")
    return ok(TLS_CHECK, setting, "its files can be used")


def _clients(settings: Settings) -> Iterator[Line]:
    clients = dict(settings.clients)
    if settings.clients_file is not None:
        try:
            clients |= read_clients(Path(settings.clients_file), settings.clients)
        except SettingsError as error:
            for each in error.problems:
                text = str(each).removeprefix(f"{each.name}: ")
                yield fail(CLIENTS_CHECK, each.name, text, step="correct clients_file")
            return
    yield ok(CLIENTS_CHECK, "known", f"{len(clients)}")
    if any(each.service_accounts for each in clients.values()):
        yield _reviews(settings)


def _reviews(settings: Settings) -> Line:
    """Say whether we have what the API server asks of us before it tells whose a token is."""
    own = settings.service_accounts
    for setting in ("token_file", "ca_file"):
        file = Path(getattr(own, setting))
        try:
            file.read_bytes()
        except OSError as error:
            return fail(
                CLIENTS_CHECK,
                f"service_accounts.{setting}",
                f"{file} cannot be read: {error.strerror}",
                step="set automountServiceAccountToken: true for this pod",
            )
    return ok(CLIENTS_CHECK, "service accounts", f"asked about at {own.url}")
