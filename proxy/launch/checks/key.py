"""The static key and the store secret: where they are, and who else can read them."""

from collections.abc import Mapping

from proxy.config import Settings
from proxy.launch.checks.files import others_may_read
from proxy.launch.exec import Credentials
from proxy.launch.report import Line, fail, ok, warn
from proxy.settings.problems import STATIC_KEY, STORE_SECRET, SecretPlace
from proxy.tokens.key import (
    KeyRefusedError,
    KeySource,
    StaticKey,
    find_key_source,
    find_store_secret,
    find_store_secret_source,
    how_to_give,
)
from proxy.tokens.model import Secret


def find(settings: Settings, environ: Mapping[str, str]) -> tuple[list[Line], Credentials]:
    """Look for what a start needs; blocking."""
    key_line, source, key = _find_key(settings, environ)
    secret_line, secret = _find_secret(settings, environ)
    credentials = Credentials(source=source, key=key, store_secret=secret)
    return [key_line, *secret_line], credentials


def _find_key(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[Line, KeySource | None, StaticKey | None]:
    if settings.role == "member":
        return ok(STATIC_KEY.noun, "none", "a member needs none"), None, None
    source = None
    try:
        source = find_key_source(settings.api_key, environ)
        key = source.read()
    except KeyRefusedError as error:
        return refused(STATIC_KEY, source, error), None, None
    return judge(STATIC_KEY, source, f"fingerprint {key.fingerprint}"), source, key


def _find_secret(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[list[Line], Secret | None]:
    """Say nothing where there is none, and none is needed."""
    place, source = settings.store.secret, None
    try:
        source = find_store_secret_source(place, environ)
        secret = find_store_secret(place, environ, needed=settings.role == "member")
    except KeyRefusedError as error:
        return [refused(STORE_SECRET, source, error)], None
    found = "it seals what the store keeps"
    return [judge(STORE_SECRET, source, found)] if source else [], secret


def judge(place: SecretPlace, source: KeySource, found: str) -> Line:
    if source.path is not None and others_may_read(source.path):
        return warn(
            place.noun,
            source.name,
            f"{found}; every user of this machine can read it",
            step=f"chmod o-r {source.path} (in Kubernetes: defaultMode 0440 of the volume)",
        )
    return ok(place.noun, source.name, found)


def refused(place: SecretPlace, source: KeySource | None, error: KeyRefusedError) -> Line:
    """Say what is wrong with it; the error's first sentence tells that, the others the remedy."""
    why, _, remedy = str(error).partition(". ")
    return fail(
        place.noun,
        source.name if source else "none",
        _within(why.removesuffix(".")),
        step=remedy or how_to_give(place),
    )


def _within(sentence: str) -> str:
    """Return a sentence as it is written behind something, unless it begins with a name."""
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() else sentence
