"""The limits of a server, and the errors of requests that exceed them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from urllib.parse import urlsplit

from ..errors import ConfigError, ResdetError


@dataclass(frozen=True)
class LabelStudio:
    """A Label Studio: its address, such as ``http://127.0.0.1:8080``, and the key of a user.

    The key is a legacy token or a personal access token. Raises ConfigError for an address that is
    not one of HTTP.
    """

    address: str
    key: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{self.address}: expected the address of a Label Studio, http://…")


@dataclass(frozen=True)
class ServeOptions:
    """What a server accepts.

    ``queue`` images are accepted and unanswered at a time, of which ``decoders`` threads prepare
    one batch ahead of the networks. ``max_bytes`` is the limit of a request's body, 16 of which are
    in memory at a time, ``max_pixels`` that of an image, and ``max_images`` that of a request. Its
    body has to arrive within ``body_seconds``, its answer within ``seconds``. ``token`` is what
    clients send as ``Authorization: Bearer``, or as the password of a user; None: nothing.
    ``label_studio`` is one that may ask for predictions of its tasks. ``hosts`` are the names that
    clients may call a server without a token by, beside ``localhost`` and any address; ``*`` is
    every name. Raises ConfigError for a number below 1.
    """

    batch_size: int = 1
    decoders: int = 2
    queue: int = 64
    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_images: int = 32
    body_seconds: float = 60
    seconds: float = 300
    token: str | None = None
    label_studio: LabelStudio | None = None
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name not in ("token", "label_studio", "hosts") and not value >= 1:
                raise ConfigError(f"{each.name.replace('_', ' ')} {value}: expected at least 1")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ConfigError("the token has characters that HTTP cannot send: use ASCII letters")
        if self.token == "":
            raise ConfigError("the token is empty")


class RequestError(ResdetError):
    """A request that is not answered with a result: its HTTP ``status`` and the reason."""

    def __init__(self, status: int, reason: str, *, retry_after: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = {"Retry-After": str(retry_after)} if retry_after else {}


class LargeImageError(RequestError):
    """An image of too many pixels; told before it is decoded."""

    def __init__(self, reason: str) -> None:
        super().__init__(413, reason)
