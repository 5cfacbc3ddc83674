"""What runs an app, and what it takes to lead its calls here: one table. Pure.

`exec` has set every variable there is, so the advice is about what goes before variables.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from mmap import mmap


@dataclass(frozen=True, slots=True)
class Runtime:
    """One kind of program, by the names of its executables."""

    name: str
    programs: str
    """Pattern of the names, without their folders."""
    ways: str
    """Which of its clients go through a proxy, and what makes the others."""
    trust: str
    """Whose word it takes for a certificate, and what in an app goes before that."""


RUNTIMES = (
    Runtime(
        "python",
        r"python[\d.]*t?|pypy[\d.]*",
        "aiohttp needs trust_env=True, urllib3 a ProxyManager, the package websockets version 15; "
        "requests and httpx obey unless trust_env is off",
        "requests reads REQUESTS_CA_BUNDLE, the others SSL_CERT_FILE; verify=, or an SSLContext of "
        "the app's own, go before",
    ),
    Runtime(
        "node",
        r"node|nodejs",
        "programs packed into one file, and Electron, ignore NODE_OPTIONS",
        "NODE_EXTRA_CA_CERTS is read at the start only, and an option `ca` in the app goes before",
    ),
    Runtime(
        "java",
        r"java",
        "Apache's client needs useSystemProperties(), Reactor Netty proxyWithSystemProperties(); "
        "java.net.http and OkHttp obey https.proxyHost",
        "javax.net.ssl.trustStore in JAVA_TOOL_OPTIONS counts, unless the app has an SSLContext of "
        "its own",
    ),
    Runtime(
        "go",
        r"go",
        "a http.Transport of the app's own needs Proxy: http.ProxyFromEnvironment",
        "SSL_CERT_FILE counts on Linux, unless the app sets RootCAs; elsewhere the system's store",
    ),
    Runtime(
        "ruby",
        r"ruby[\d.]*",
        "Net::HTTP and what is built on it obey; HTTPX and Typhoeus want a proxy of their own",
        "SSL_CERT_FILE counts, unless the app sets ca_file or cert_store",
    ),
    Runtime(
        "php",
        r"php(?:-fpm|-cgi)?[\d.]*",
        "cURL obeys unless the app sets CURLOPT_PROXY; file_get_contents() needs a context with "
        "proxy",
        "cURL looks at curl.cainfo only: set it to $SSL_CERT_FILE in php.ini; streams read that "
        "variable unless openssl.cafile is set",
    ),
    Runtime(
        "rust",
        r"rust|cargo",
        "reqwest obeys unless the app calls no_proxy(); hyper and tungstenite alone know no proxy",
        "rustls with webpki-roots trusts nothing else: build it with rustls-native-certs, which "
        "reads SSL_CERT_FILE",
    ),
    Runtime(
        "curl",
        r"curl",
        "--noproxy and --proxy, there or in .curlrc, go before the variables",
        "CURL_CA_BUNDLE counts, unless --cacert or --capath, there or in .curlrc, go before",
    ),
    Runtime(
        "wget",
        r"wget",
        "--no-proxy, there or in .wgetrc, goes before the variables",
        "no variable counts: give it --ca-certificate=$SSL_CERT_FILE",
    ),
    Runtime(
        "dotnet",
        r"dotnet",
        "HttpClient obeys unless its handler sets UseProxy or Proxy",
        "SSL_CERT_FILE counts on Linux, unless the app has a trust store or a callback of its own",
    ),
    Runtime(
        "deno",
        r"deno",
        "fetch obeys; an HTTP client of the app's own needs a proxy",
        "DENO_CERT counts, unless the app gives caCerts of its own",
    ),
    Runtime(
        "bun",
        r"bunx?",
        "fetch obeys; WebSockets need the option proxy",
        "NODE_EXTRA_CA_CERTS counts, unless the app sets tls.ca",
    ),
)

_OTHER = Runtime(
    "",
    "",
    "look for a setting of the app for a proxy",
    "look for a setting of the app for certificate authorities; what uses OpenSSL reads "
    "SSL_CERT_FILE",
)
_MARKS = ((b"\xff Go buildinf:", "go"), (b"/rustc/", "rust"))
"""What stands in binaries that were made of a language, even if they are stripped."""


def runtimes_of(programs: Iterable[str]) -> list[Runtime]:
    """Return those of programs, which are paths or names; each once, in their order."""
    return list(dict.fromkeys(filter(None, map(runtime_of, programs))))


def runtime_of(program: str) -> Runtime | None:
    """Return the runtime whose executable has this path or name."""
    name = program.rpartition("/")[2]
    return next((each for each in RUNTIMES if re.fullmatch(each.programs, name)), None)


def interpreter_in(start: bytes) -> str:
    """Return the interpreter that the first line of a script names; else nothing."""
    line = start.partition(b"\n")[0]
    words = line.removeprefix(b"#!").split() if line.startswith(b"#!") else []
    if words and words[0].endswith(b"/env"):
        words = [each for each in words[1:] if not each.startswith(b"-") and b"=" not in each]
    return words[0].decode("utf-8", "replace") if words else ""


def language_in(binary: bytes | mmap) -> str:
    """Return the language that a binary was made of, if it bears the mark of one."""
    return next((name for mark, name in _MARKS if binary.find(mark) >= 0), "")


def advice(runtimes: Iterable[Runtime], about: str) -> str:
    """Return what helps, for each of them, or for whatever it may be."""
    known = [f"{each.name}: {getattr(each, about)}" for each in runtimes]
    return "; ".join(known) or getattr(_OTHER, about)
