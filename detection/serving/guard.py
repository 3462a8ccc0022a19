"""What every request passes: the token, headers of security, and the count of answers."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode
from typing import Any

from .metrics import Metrics
from .page import FILES

#: Paths that need no token, beside those of the page, which asks for it.
OPEN = frozenset({*FILES, "/healthz", "/readyz"})
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """An ASGI application in front of another."""

    def __init__(self, app: Any, *, metrics: Metrics, paths: frozenset[str], token: str | None):
        self.app, self.metrics, self.paths, self.token = app, metrics, paths, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self.paths else "other"
                self.metrics.requests.labels(path, message["status"]).inc()
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in _HEADERS.items()
                        if name.encode() not in present
                    ),
                ]
            await send(message)

        if self._is_allowed(scope):
            await self.app(scope, receive, sending)
            return
        body = json.dumps({"error": "send the server's token: Authorization: Bearer TOKEN"})
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        await sending({"type": "http.response.start", "status": 401, "headers": headers})
        await sending({"type": "http.response.body", "body": body.encode()})

    def _is_allowed(self, scope: Any) -> bool:
        if self.token is None or scope["path"] in OPEN:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, secret = given.partition(b" ")
        if kind.lower() == b"basic":  # what Label Studio and browsers send; any name of a user
            secret = _password(secret)
        elif kind.lower() != b"bearer":
            return False
        return hmac.compare_digest(secret, self.token.encode())


def _password(pair: bytes) -> bytes:
    try:
        return b64decode(pair, validate=True).partition(b":")[2]
    except ValueError:
        return b""
