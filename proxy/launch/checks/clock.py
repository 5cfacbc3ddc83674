"""The wall clock, compared with Mobula's: what depends on it, and what does not."""

import time
from dataclasses import dataclass

import aiohttp

from proxy.launch.checks.destination import Destination
from proxy.launch.report import Line, ok, skip, warn
from proxy.network.dialer import Dialer
from proxy.network.session import make_connector, through_proxy
from proxy.settings.values import format_duration
from proxy.tokens.mobula import DATE_GRAIN, read_date

CHECK = "clock"
MOST_SECONDS = 5.0
TOLERATED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """`ahead` is by how many seconds our clock is ahead; None without a Date in the answer."""

    answered: bool
    ahead: float | None = None


async def compare(destination: Destination, dialer: Dialer) -> Comparison:
    """Ask for nothing but the time, without any credential."""
    settings = destination.settings
    options, headers = through_proxy(dialer, settings.url)
    connector = make_connector(dialer, address=settings.address, ca_file=settings.ca_file)
    timeout = aiohttp.ClientTimeout(total=MOST_SECONDS)
    before = time.time()
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.head(
                f"{settings.url}/", headers=headers, allow_redirects=False, **options
            ) as response,
        ):
            date = read_date(response.headers.get("Date"))
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Comparison(answered=False)
    if date is None:
        return Comparison(answered=True)
    return Comparison(answered=True, ahead=(before + time.time()) / 2 - date - DATE_GRAIN / 2)


def judge(name: str, comparison: Comparison) -> Line:
    if not comparison.answered:
        return skip(CHECK, name, "not compared, because it did not answer a HEAD")
    if comparison.ahead is None:
        found = "its answers have no Date, so this clock alone tells when tokens expire"
        return warn(CHECK, name, found, step="keep this clock right, by NTP say")
    seconds = round(abs(comparison.ahead))
    way = "ahead of" if comparison.ahead > 0 else "behind"
    found = f"{format_duration(seconds)} {way} its clock" if seconds else "the same as its clock"
    if seconds < TOLERATED_SECONDS:
        return ok(CHECK, name, found)
    return warn(
        CHECK,
        name,
        f"{found}: tokens do not mind, but certificates of the local CA and times in the log do",
        step="set this machine's clock, as by `timedatectl set-ntp true`",
    )
