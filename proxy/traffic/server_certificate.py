"""The certificate of a listener with TLS of its own, and whose client certificates it takes."""

import os
import ssl
from typing import Never

from proxy.config import ListenerTlsSettings
from proxy.traffic.tls import bare_context


class ServerCertificate:
    """What is shown to clients; connections that are open keep what they were shown."""

    def __init__(self, certificate_file: str, key_file: str, client_ca_file: str | None) -> None:
        self.files = [each for each in (certificate_file, key_file, client_ca_file) if each]
        self._certificate_file = certificate_file
        self._key_file = key_file
        self._client_ca_file = client_ca_file
        self._context = bare_context()

    def __repr__(self) -> str:
        return f"<ServerCertificate {self._certificate_file}>"

    @classmethod
    def of(cls, settings: ListenerTlsSettings) -> "ServerCertificate | None":
        """Return that of a listener, None for one without TLS."""
        if settings.certificate_file is None or settings.key_file is None:
            return None
        return cls(settings.certificate_file, settings.key_file, settings.client_ca_file)

    def context(self, _: str) -> ssl.SSLContext:
        """Return what clients are shown, whatever host they ask for."""
        return self._context

    def take(self) -> None:
        """Read the files, blocking, and show what they hold from now on.

        Raises ValueError, which says what is wrong with which.
        """
        context = bare_context()
        try:
            context.load_cert_chain(self._certificate_file, self._key_file, _no_password)
        except (OSError, ValueError) as error:
            names = f"{self._certificate_file} with {self._key_file}"
            raise ValueError(f"{names} cannot be used: {_reason(error)}") from None
        if self._client_ca_file is not None:
            try:
                context.load_verify_locations(self._client_ca_file)
            except OSError as error:
                raise ValueError(
                    f"{self._client_ca_file} cannot be used: {_reason(error)}"
                ) from None
            # Who shows none may have a token; who shows a bad one is turned away by TLS.
            context.verify_mode = ssl.CERT_OPTIONAL
        self._context = context


def _no_password() -> Never:
    """OpenSSL would ask for it on the terminal."""
    raise ValueError("the key is encrypted, and there is nobody to ask for the password")


def _reason(error: Exception) -> str:
    match error:
        case ssl.SSLError(reason="KEY_VALUES_MISMATCH"):
            return "the key is that of another certificate"
        case ssl.SSLError():
            return "it holds no valid PEM of what belongs there"
        case OSError(errno=int(number)):
            return os.strerror(number)
        case _:
            return str(error)
