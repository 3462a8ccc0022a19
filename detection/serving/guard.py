"""What every request passes: the name of the server, the token, headers of security, and the count
of answers."""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
from base64 import b64decode
from collections.abc import Sequence
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

    def __init__(
        self,
        app: Any,
        *,
        metrics: Metrics,
        paths: frozenset[str],
        token: str | None,
        hosts: Sequence[str],
    ) -> None:
        self.app, self.metrics, self.paths, self.token = app, metrics, paths, token
        self.hosts = {name.lower() for name in (*hosts, "localhost")}

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

        sent = dict(scope["headers"])
        headers = [(b"content-type", b"application/json")]
        if not self._is_called(sent.get(b"host", b"").decode("latin-1")):
            status, reason = 421, "the server is not called by this name: see --allow-host"
        elif not self._is_allowed(scope["path"], sent.get(b"authorization", b"")):
            status, reason = 401, "send the server's token: Authorization: Bearer TOKEN"
            headers.append((b"www-authenticate", b"Bearer"))
        else:
            await self.app(scope, receive, sending)
            return
        await sending({"type": "http.response.start", "status": status, "headers": headers})
        await sending(
            {"type": "http.response.body", "body": json.dumps({"error": reason}).encode()}
        )

    def _is_called(self, host: str) -> bool:
        """Whether a ``Host`` is the server's. A page whose own name is made to point here (DNS
        rebinding) calls it by that name, never by an address; an old client may send none."""
        if self.token is not None:  # which such a page does not have
            return True
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return not host or "*" in self.hosts or name in self.hosts
        return True

    def _is_allowed(self, path: str, given: bytes) -> bool:
        if self.token is None or path in OPEN:
            return True
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
