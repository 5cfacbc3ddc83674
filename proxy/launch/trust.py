"""The files of certificates that a child trusts: what it trusted before, and the local CA.

What package managers have of their own is left alone: they never call an upstream, and through a
tunnel they see the certificates that they know.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from proxy.traffic.bundle import certificates_at
from proxy.traffic.ca import LocalCA

ADDING = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
"""Variables whose certificates a runtime trusts beside its own."""
IN_PLACE = ("AWS_CA_BUNDLE", "GIT_SSL_CAINFO")
"""Those of libraries that have roots of their own: what they name is trusted in place of these."""
BEFORE_SSL_CERT_FILE = ("NIX_SSL_CERT_FILE", "PERL_LWP_SSL_CA_FILE", "HTTPS_CA_FILE")
"""Those that some programs prefer to SSL_CERT_FILE, where they are set."""


def trusted_files(environ: Mapping[str, str], folder: Path, ca: LocalCA) -> dict[str, str]:
    """Return the variables to set, each with the path of a file that holds the local CA.

    What a variable names already is in a new file in `folder`, and nothing else is.
    """
    own, bundle = str(ca.files.certificate), str(ca.files.bundle)

    def joined(name: str, otherwise: str) -> str:
        given = list(filter(None, [environ.get(name)]))
        if name == "SSL_CERT_FILE" and (folders := environ.get("SSL_CERT_DIR")):
            # Many programs look there only while no file is named.
            given = [*(given or [otherwise]), *folders.split(os.pathsep)]
        if not given:
            return otherwise
        file = folder / f"{name}.pem"
        ca.write_bundle(file, *map(_certificates, given))
        return str(file)

    openssl = joined("SSL_CERT_FILE", bundle)
    curl = joined("CURL_CA_BUNDLE", openssl)
    requests = curl if environ.get("CURL_CA_BUNDLE") else bundle
    return {
        "SSL_CERT_FILE": openssl,
        "CURL_CA_BUNDLE": curl,
        "REQUESTS_CA_BUNDLE": joined("REQUESTS_CA_BUNDLE", requests),
        **{name: joined(name, openssl) for name in IN_PLACE},
        **{name: joined(name, own) for name in ADDING},
        **{name: joined(name, "") for name in BEFORE_SSL_CERT_FILE if environ.get(name)},
    }


def _certificates(place: str) -> str:
    """Return what stands in a file, or in those of a folder, but for what cannot be read."""
    files = [Path(place)]
    with suppress(OSError):  # where it is no folder
        files = sorted(filter(os.path.isfile, Path(place).iterdir()))
    return "".join(map(_readable, files))


def _readable(file: Path) -> str:
    with suppress(OSError):
        return "".join(certificates_at(file))
    return ""
