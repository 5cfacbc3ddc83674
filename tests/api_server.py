"""The API server of a Kubernetes cluster, as far as it reviews tokens, on a TLS socket of its own.

It is as strict with requests as the real one, and stricter: what in one is not as it should be
stands in `wrong`.
"""

import json
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import jwt
import trustme
from aiohttp import web

from harness import Gate
from proxy.config import ServiceAccountSettings

AUDIENCE: Final = "mobula-proxy"
OWN_TOKEN: Final = "own-token-of-the-proxy-4f1c8e"
PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_EXPIRED: Final = "[invalid bearer token, service account token has expired]"
_INVALID: Final = "[invalid bearer token, square/go-jose: error in cryptographic primitive]"
_MISSED: Final = 'token audiences %s is invalid for the target audiences ["%s"]'


def jwt_of(**claims: Any) -> str:
    """Sign claims as nobody does whom the API server believes, so that it has to know the token."""
    return jwt.encode(claims, "s" * 32, algorithm="HS256")


class ApiServer:
    """Knows the tokens that it issued, until they expire or are revoked.

    A test may set `status` or `body` to what each review is to be answered with, or `hangs_up`, and
    `gate` to what is to hold it up.
    """

    def __init__(self, folder: Path, wall: Callable[[], float], *, tls: bool = True) -> None:
        self.ca_file = folder / "ca.crt"
        self.token_file = folder / "token"
        self.token_file.write_text(OWN_TOKEN + "\n")
        self.takes = OWN_TOKEN
        """Our own token."""
        self.reviewed: list[str] = []
        self.most_at_once = 0
        self.peers: set[object] = set()
        self.wrong: list[str] = []
        self.gate: Gate | None = None
        self.hangs_up = False
        self.status: int | None = None
        self.body: bytes | None = None
        self.headers: dict[str, str] = {}
        self.knows_audiences = True
        self._at_once = 0
        self._wall = wall
        self._issued: dict[str, tuple[str, Sequence[str], float]] = {}
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.01)
        self.prove(trustme.CA(), "127.0.0.1")

    def __repr__(self) -> str:
        return f"<ApiServer {len(self._issued)} issued, {len(self.reviewed)} reviewed>"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Refuse connections from now on."""
        await self._runner.cleanup()

    def prove(self, authority: trustme.CA, name: str) -> None:
        """Show from now on a certificate for `name`, and put its authority into `ca_file`."""
        authority.cert_pem.write_to_path(self.ca_file)
        if self._tls:
            authority.issue_cert(name).configure_cert(self._tls)

    def settings(self, **more: Any) -> ServiceAccountSettings:
        """Return settings that lead here."""
        files = {"ca_file": str(self.ca_file), "token_file": str(self.token_file)}
        return ServiceAccountSettings(**{"url": self.url, **files, **more})

    def issue(
        self,
        account: str = "research/app",
        *,
        audiences: Sequence[str] = (AUDIENCE,),
        lives: float = 3600.0,
        user: str | None = None,
        **claims: Any,
    ) -> bytes:
        """Return a token of this ServiceAccount; `user` is what it turns out to be in the end."""
        username = f"system:serviceaccount:{account.replace('/', ':')}"
        exp = self._wall() + lives
        jti = str(len(self._issued))
        named = {"sub": username, "aud": list(audiences), "exp": exp, "jti": jti}
        token = jwt_of(**{**named, **claims})
        self._issued[token] = user or username, audiences, exp
        return token.encode()

    def revoke(self, token: bytes) -> None:
        del self._issued[token.decode()]

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.peers.add(request.get_extra_info("peername"))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self.gate:
                await self.gate.hold(0.0)
            return await self._reviewed(request)
        finally:
            self._at_once -= 1

    async def _reviewed(self, request: web.BaseRequest) -> web.StreamResponse:
        said = await request.read()
        if request.headers.get("Authorization") != f"Bearer {self.takes}":
            return _failure(401, "Unauthorized")
        token, audience = self._asked(request, said)
        self.reviewed.append(token)
        if self.hangs_up and request.transport:
            request.transport.abort()
        if self.status is not None:
            return _failure(self.status, "as the test says", self.headers)
        if self.body is not None:
            return web.Response(body=self.body, content_type="application/json", status=201)
        review = json.loads(said) | {"status": self._judged(token, audience)}
        return web.json_response(review | {"metadata": {"creationTimestamp": None}}, status=201)

    def _asked(self, request: web.BaseRequest, said: bytes) -> tuple[str, str]:
        """Return the token and the audience of a request, and remember what is wrong with it."""
        shape = request.method, request.path_qs, request.content_type
        if shape != ("POST", PATH, "application/json"):
            self.wrong.append(f"{shape}")
        body = json.loads(said)
        token, audience = body["spec"]["token"], body["spec"]["audiences"][0]
        if body != _review_of(token, audience):
            self.wrong.append(f"{sorted(body)} {sorted(body['spec'])}")
        return token, audience

    def _judged(self, token: str, audience: str) -> dict[str, Any]:
        """Return the status of a review, as the real one words it."""
        user, audiences, exp = self._issued.get(token, ("", (), 0.0))
        if not user:
            return {"user": {}, "error": _INVALID}
        if self._wall() >= exp:
            return {"user": {}, "error": _EXPIRED}
        status = {"authenticated": True, "user": {"username": user, "uid": "8b1d", "groups": []}}
        if not self.knows_audiences:
            return status
        if audience not in audiences:
            return {"user": {}, "error": _MISSED % (json.dumps(list(audiences)), audience)}
        return status | {"audiences": [audience]}


def _review_of(token: str, audience: str) -> dict[str, Any]:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }


def _failure(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
    return web.json_response(body | {"message": message}, status=status, headers=headers)
