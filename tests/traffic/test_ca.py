"""The local CA: how it is kept, when it is made anew, and what it shows to whom.

What its certificates mean is tested in `test_certificates`, the files for apps in `test_bundle`.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import requests
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import program
from proxy.config import CaSettings
from proxy.traffic.bundle import Roots
from proxy.traffic.ca import CaError, CaUnsetError, Change, LocalCA, open_ca
from proxy.traffic.certificates import DAY, Authority
from proxy.traffic.tls import bare_context
from tls import ANSWER, certificate_of, is_trusted, serving, shaken, trusting

HOST, OTHER = "api.test", "other.test"
START = 1_800_000_000.0
YEAR = 365 * DAY
HOUR = DAY / 24
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

Open = Callable[..., LocalCA]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture
def opened(folder: Path) -> Open:
    """Open the CA of the folder as another process would, on a system without roots."""

    def opened(
        *hosts: str,
        public: Path | None = None,
        anew: bool = False,
        now: float | None = None,
        roots: Callable[[], Roots] = Roots,
    ) -> LocalCA:
        clock = {} if now is None else {"clock": lambda: now}
        return LocalCA.open(
            folder, hosts or (HOST,), public=public, anew=anew, roots=roots, **clock
        )

    return opened


class Clock:
    """A wall clock that somebody sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def whoever() -> ssl.SSLContext:
    """A client that believes every server."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return client


def marks(folder: Path) -> list[tuple[str, int]]:
    """What is different once a file was written."""
    return [(each.name, each.stat().st_mtime_ns) for each in sorted(folder.iterdir())]


# How it is kept


def test_it_is_made_on_first_use_and_then_stays_as_it_is(opened: Open) -> None:
    first, second = opened(), opened()
    assert (first.change, second.change) == (Change.CREATED, Change.NONE)
    assert second.certificate == first.certificate
    assert is_trusted(second.context(HOST), trusting(first.pem), HOST)


def test_nothing_is_written_while_nothing_changes(opened: Open, folder: Path) -> None:
    """So it may lie on a volume that is read-only by then."""
    opened()
    before = marks(folder)
    opened()
    assert marks(folder) == before


def test_all_who_open_it_at_once_have_the_same(opened: Open) -> None:
    """Each has the folder's lock by itself, as a process has."""
    start = Barrier(8)

    def open_with_all(_: int) -> LocalCA:
        start.wait(10)
        return opened()

    with ThreadPoolExecutor(8) as threads:
        every = list(threads.map(open_with_all, range(8)))
    assert len({each.fingerprint for each in every}) == 1
    assert [each.change for each in every].count(Change.CREATED) == 1


@pytest.mark.parametrize("mask", [0, 0o077])
def test_nobody_else_may_read_its_key_or_replace_it(opened: Open, folder: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        ca = opened()
    finally:
        os.umask(before)
    assert (mode(folder), mode(ca.key_file)) == (0o700, 0o600)


def test_its_key_lies_in_one_file_and_not_where_apps_read(
    opened: Open, folder: Path, tmp_path: Path
) -> None:
    public = tmp_path / "public"
    ca = opened(public=public)
    ca.context(HOST)
    assert list(folder.iterdir()) == [ca.key_file]
    assert {each.name for each in public.iterdir()} == {"ca.pem", "bundle.pem", "truststore.p12"}
    assert b"PRIVATE KEY" in ca.key_file.read_bytes()
    assert not [each for each in public.iterdir() if b"PRIVATE KEY" in each.read_bytes()]


def test_it_tells_what_it_is(opened: Open) -> None:
    ca = opened(OTHER, HOST)
    assert repr(ca) == f"<LocalCA for {HOST}, {OTHER}>"
    assert ca.certificate.subject.rfc4514_string().startswith("CN=mobula-proxy local CA ")
    assert ca.pem == ca.files.certificate.read_text()


def test_its_paths_are_good_for_programs_that_run_elsewhere(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        ca = LocalCA.open(Path("ca"), [HOST], roots=Roots)
    assert ca.files.certificate == tmp_path / "ca" / "ca.pem"


# Settings


def test_the_settings_say_where_it_is_and_for_whom(tmp_path: Path) -> None:
    settings = CaSettings(dir=str(tmp_path / "ca"), public_dir=str(tmp_path / "public"))
    ca = open_ca(settings, ["api.test", "localhost:9000", "[::1]:80"])
    assert ca.hosts == {"api.test", "localhost", "::1"}
    assert ca.key_file == tmp_path / "ca" / "ca-key.pem"
    assert ca.files.bundle == tmp_path / "public" / "bundle.pem"


def test_without_a_place_it_is_refused_and_told_how_to_name_one() -> None:
    with pytest.raises(CaUnsetError, match=r"set ca\.dir, or state_dir"):
        open_ca(CaSettings(), [HOST])


# What is refused, and left as it is


def of_another(file: Path) -> None:
    """Put the key of another CA beside the certificate."""
    other = Authority.made([HOST], START)
    file.write_bytes(pem_of(other.key) + certificate_in(file))


def of_another_kind(file: Path) -> None:
    leaf = Authority.made([HOST], START).sign(HOST, START)
    file.write_bytes(pem_of(leaf.key) + leaf.certificate.public_bytes(Encoding.PEM))


def rsa_key(file: Path) -> None:
    file.write_bytes(pem_of(rsa.generate_private_key(65537, 2048)) + certificate_in(file))


def no_key(file: Path) -> None:
    file.write_bytes(certificate_in(file))


def nothing(file: Path) -> None:
    file.write_bytes(b"")


def for_the_group(file: Path) -> None:
    file.chmod(0o640)


def for_all(file: Path) -> None:
    file.chmod(0o604)


def pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_in(file: Path) -> bytes:
    return x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (for_the_group, "others can read {}, and so sign as the local CA"),
        (for_all, "others can read {}, and so sign as the local CA"),
        (of_another, "{} holds a key and a certificate that do not belong together"),
        (of_another_kind, "{} holds a certificate of another kind"),
        (rsa_key, "{} holds a key of another kind"),
        (no_key, "{} holds no key that can be read"),
        (nothing, "{} holds no key that can be read"),
    ],
)
def test_a_key_that_cannot_be_relied_on_is_refused_until_another_is_asked_for(
    opened: Open, harm: Callable[[Path], None], reason: str
) -> None:
    first = opened()
    harm(first.key_file)
    before = first.key_file.read_bytes(), mode(first.key_file)
    with pytest.raises(CaError) as refused:
        opened()
    assert str(refused.value).startswith(reason.format(first.key_file))
    assert "run `mobula-proxy ca renew`" in str(refused.value)
    assert (first.key_file.read_bytes(), mode(first.key_file)) == before
    again = opened(anew=True)
    assert mode(again.key_file) == 0o600
    assert is_trusted(again.context(HOST), trusting(again.pem), HOST)


def test_a_link_in_place_of_the_key_is_refused(opened: Open, tmp_path: Path) -> None:
    ca = opened()
    ca.key_file.rename(tmp_path / "elsewhere")
    ca.key_file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CaError, match="is not a file of this process's own user"):
        opened()


@pytest.mark.parametrize("writable", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(
    opened: Open, folder: Path, writable: int
) -> None:
    folder.mkdir()
    folder.chmod(writable)
    with pytest.raises(CaError, match=f"others can write to {folder}, and so replace the local CA"):
        opened()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(opened: Open, folder: Path) -> None:
    folder.mkdir(0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(CaError, match="belongs to user 12345, who could replace the local CA"):
        opened()


def test_a_folder_that_cannot_be_made_is_named_with_its_setting(opened: Open, folder: Path) -> None:
    folder.touch()
    with pytest.raises(CaError, match=rf"cannot keep the local CA in {folder}: .* in ca\.dir"):
        opened()


def a_file(folder: Path) -> Path:
    (folder / "public").touch()
    return folder / "public"


def where_a_folder_is_in_the_way(folder: Path) -> Path:
    (folder / "public" / "ca.pem").mkdir(parents=True)
    return folder / "public"


def read_only(_: Path) -> Path:
    """Also for root."""
    return Path("/proc/sys/kernel")


@pytest.mark.parametrize("place", [a_file, where_a_folder_is_in_the_way, read_only])
def test_a_place_for_apps_that_cannot_be_written_to_is_named_with_its_setting(
    opened: Open, tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    public = place(tmp_path)
    with pytest.raises(CaError, match=rf"cannot write for apps to {public}: .* in ca\.public_dir"):
        opened(public=public)


# When it is made anew


def test_hosts_that_are_added_are_in_a_certificate_for_all_with_the_same_key(opened: Open) -> None:
    old, new = opened(HOST), opened(OTHER)
    assert new.change is Change.EXTENDED
    assert new.change.concerns_apps
    assert new.hosts == {HOST, OTHER}
    assert new.certificate.public_key() == old.certificate.public_key()
    for host in (HOST, OTHER):
        assert is_trusted(new.context(host), trusting(new.pem), host)


def test_apps_and_proxies_that_run_do_not_notice_that_hosts_were_added(opened: Open) -> None:
    old, new = opened(HOST), opened(HOST, OTHER)
    assert is_trusted(new.context(HOST), trusting(old.pem), HOST)
    assert is_trusted(old.context(HOST), trusting(new.pem), HOST)


def test_a_bundle_has_the_new_certificate_only_where_the_system_trusts_the_old_one(
    opened: Open,
) -> None:
    old = opened(HOST)
    new = opened(HOST, OTHER, roots=lambda: Roots(Path("/x"), (old.pem,)))
    assert is_trusted(new.context(OTHER), trusting(new.files.bundle.read_text()), OTHER)


def test_hosts_that_are_configured_no_more_stay_in_it(opened: Open) -> None:
    """Or two proxies with different upstreams would take each other's CA away."""
    opened(HOST, OTHER)
    ca = opened(HOST)
    assert ca.change is Change.NONE
    assert ca.hosts == {HOST, OTHER}


@pytest.mark.parametrize(
    ("later", "change"),
    [
        (0, Change.NONE),
        (4 * YEAR - HOUR, Change.NONE),
        (4 * YEAR + HOUR, Change.RENEWED),
        (6 * YEAR, Change.RENEWED),
        (-DAY + HOUR, Change.NONE),
        (-DAY - HOUR, Change.RENEWED),
    ],
)
def test_it_is_renewed_a_year_before_it_expires_and_whenever_it_is_not_valid(
    opened: Open, later: float, change: Change
) -> None:
    first = opened(now=START)
    second = opened(now=START + later)
    assert second.change is change
    assert second.certificate.public_key() == first.certificate.public_key()
    ends = START if change is Change.NONE else START + later
    assert second.certificate.not_valid_after_utc.timestamp() == ends + 5 * YEAR


def test_a_certificate_that_cannot_be_read_is_made_anew_for_its_key(opened: Open) -> None:
    first = opened()
    whole = first.key_file.read_bytes()
    first.key_file.write_bytes(whole[: len(whole) - 40])
    second = opened()
    assert second.change is Change.MENDED
    assert is_trusted(second.context(HOST), trusting(first.pem), HOST)
    assert opened().change is Change.NONE


def test_another_one_that_is_asked_for_has_another_key_and_name_and_just_these_hosts(
    opened: Open,
) -> None:
    first = opened(HOST, OTHER)
    second = opened(HOST, anew=True)
    assert second.hosts == {HOST}
    assert second.certificate.subject != first.certificate.subject
    assert not is_trusted(second.context(HOST), trusting(first.pem), HOST)
    assert opened(HOST).certificate == second.certificate


# What it shows


@pytest.mark.parametrize("host", [HOST, "127.0.0.1"])
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_apps_that_trust_it_can_speak_tls(
    opened: Open, host: str, version: ssl.TLSVersion
) -> None:
    ca = opened(host)
    client = trusting(ca.pem)
    client.minimum_version = client.maximum_version = version
    async with serving(ca.context(host)) as port:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname=host
        )
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == ANSWER
        writer.close()


async def test_curl_trusts_it(opened: Open) -> None:
    ca = opened()
    async with serving(ca.context(HOST)) as port:
        out = await output_of(
            program("curl"), "--silent", "--show-error", "--cacert", str(ca.files.certificate),
            "--resolve", f"{HOST}:{port}:127.0.0.1", f"https://{HOST}:{port}/",
        )  # fmt: skip
    assert out == "ok"


async def test_node_trusts_it(opened: Open) -> None:
    ca = opened()
    async with serving(ca.context(HOST)) as port:
        options = f"{{host: '127.0.0.1', port: {port}, servername: '{HOST}'}}"
        code = f"require('https').get({options}, (answer) => console.log(answer.statusCode))"
        environ = {"NODE_EXTRA_CA_CERTS": str(ca.files.certificate)}
        out = await output_of(program("node"), "--eval", code, environ=environ)
    assert out == "200\n"


async def test_requests_trusts_it_by_the_bundle(opened: Open) -> None:
    ca = opened("127.0.0.1")
    async with serving(ca.context("127.0.0.1")) as port:
        url, bundle = f"https://127.0.0.1:{port}/", str(ca.files.bundle)
        answer = await asyncio.to_thread(requests.get, url, verify=bundle, timeout=10)
    assert answer.text == "ok"


async def output_of(*command: str, environ: dict[str, str] | None = None) -> str:
    """Run a command to its good end, while this loop serves it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ["PATH"], **(environ or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert process.returncode == 0, err
    return out.decode()


def test_a_certificate_is_for_its_host_only(opened: Open) -> None:
    ca = opened(HOST, OTHER)
    assert not is_trusted(ca.context(HOST), trusting(ca.pem), OTHER)


@pytest.mark.parametrize("host", [OTHER, f"below.{HOST}", "127.0.0.1", "", HOST.upper()])
def test_a_host_that_it_does_not_speak_for_is_refused(opened: Open, host: str) -> None:
    with pytest.raises(CaError, match=f"does not speak for '{host}'"):
        opened().context(host)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
)
def test_it_speaks_http_1_1_only(opened: Open, offered: list[str], chosen: str | None) -> None:
    client = whoever()
    client.set_alpn_protocols(offered)
    assert shaken(opened().context(HOST), client, HOST).selected_alpn_protocol() == chosen


def test_a_context_is_made_once_and_anew_after_half_the_life_of_its_certificate(
    folder: Path,
) -> None:
    clock = Clock(START)
    ca = LocalCA.open(folder, [HOST], clock=clock, roots=Roots)
    first = ca.context(HOST)
    clock.now += 3.5 * DAY - HOUR
    assert ca.context(HOST) is first
    clock.now += 2 * HOUR
    assert ca.context(HOST) is not first


@pytest.fixture(scope="module")
def made_at_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder") / "ca"
    LocalCA.open(folder, [HOST], clock=lambda: START, roots=Roots)
    return folder


@settings(max_examples=40)
@given(steps=st.lists(st.floats(-3 * DAY, 60 * DAY), max_size=20))
def test_what_is_shown_is_valid_for_days_however_long_it_runs_and_whatever_the_clock_does(
    made_at_start: Path, steps: list[float]
) -> None:
    clock = Clock(START)
    ca = LocalCA.open(made_at_start, [HOST], clock=clock, roots=Roots)
    for step in steps:
        clock.now = max(START, clock.now + step)
        certificate = certificate_of(shaken(ca.context(HOST), whoever(), HOST))
        assert certificate.not_valid_before_utc.timestamp() <= clock.now
        assert certificate.not_valid_after_utc.timestamp() >= clock.now + 3 * DAY


def test_once_its_own_time_is_over_it_shows_nothing(folder: Path) -> None:
    clock = Clock(START)
    ca = LocalCA.open(folder, [HOST], clock=clock, roots=Roots)
    clock.now += 5 * YEAR - HOUR
    ca.context(HOST)
    clock.now += 2 * HOUR
    with pytest.raises(CaError, match="is not valid now: restart the proxy"):
        ca.context(HOST)


# Sessions


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_a_session_of_one_host_is_not_taken_up_for_another(
    opened: Open, version: ssl.TLSVersion
) -> None:
    ca = opened(HOST, OTHER)
    client = trusting(ca.pem)
    client.maximum_version = version
    session = shaken(ca.context(HOST), client, HOST).session
    second = shaken(ca.context(OTHER), client, OTHER, session)
    assert (second.version(), second.session_reused) == (version.name.replace("_", "."), False)


def by_name(ca: LocalCA, told: list[str | None]) -> ssl.SSLContext:
    """A server that shows the certificate of the host that the client names."""

    def choose(end: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        told.append(name)
        end.context = ca.context(name or HOST)

    context = bare_context()
    context.sni_callback = choose
    return context


def test_who_names_another_host_with_tls_1_3_is_shown_its_certificate(opened: Open) -> None:
    ca = opened(HOST, OTHER)
    told: list[str | None] = []
    server, client = by_name(ca, told), trusting(ca.pem)
    session = shaken(server, client, HOST).session
    second = shaken(server, client, OTHER, session)
    names = certificate_of(second).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.DNSName(OTHER)]
    assert (told, second.session_reused) == ([HOST, OTHER], False)


def test_who_takes_a_session_along_to_another_host_with_tls_1_2_is_known_by_the_first(
    opened: Open,
) -> None:
    ca = opened(HOST, OTHER)
    told: list[str | None] = []
    server, client = by_name(ca, told), trusting(ca.pem)
    client.maximum_version = TLS_1_2
    session = shaken(server, client, HOST).session
    assert shaken(server, client, OTHER, session).session_reused
    assert told == [HOST, HOST]


# Bundles for one app


def text_of(authority: trustme.CA, _: Path) -> str:
    return authority.cert_pem.bytes().decode()


def file_of(authority: trustme.CA, folder: Path) -> Path:
    authority.cert_pem.write_to_path(folder / "theirs.pem")
    return folder / "theirs.pem"


def folder_of(authority: trustme.CA, folder: Path) -> Path:
    (folder / "theirs").mkdir()
    authority.cert_pem.write_to_path(folder / "theirs" / "0a1b2c3d.0")
    return folder / "theirs"


@pytest.mark.parametrize("given_as", [text_of, file_of, folder_of])
def test_an_app_goes_on_to_trust_what_it_was_told_to_trust(
    opened: Open, tmp_path: Path, given_as: Callable[[trustme.CA, Path], str | Path]
) -> None:
    ca, theirs = opened(), trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.issue_cert(OTHER).configure_cert(server)
    ca.write_bundle(tmp_path / "both.pem", given_as(theirs, tmp_path))
    client = trusting((tmp_path / "both.pem").read_text())
    assert is_trusted(server, client, OTHER)
    assert is_trusted(ca.context(HOST), client, HOST)


def test_a_bundle_takes_over_no_key(opened: Open, tmp_path: Path) -> None:
    theirs = trustme.CA()
    both = theirs.private_key_pem.bytes() + theirs.cert_pem.bytes()
    opened().write_bundle(tmp_path / "both.pem", both.decode())
    assert "PRIVATE KEY" not in (tmp_path / "both.pem").read_text()


def test_a_bundle_of_what_is_not_there_is_an_error(opened: Open, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        opened().write_bundle(tmp_path / "both.pem", tmp_path / "theirs.pem")
    assert not (tmp_path / "both.pem").exists()
