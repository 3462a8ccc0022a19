"""A server on a port, until a signal ends it or its model has stopped."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ..errors import ConfigError, ResdetError, one_line
from ..inference.predictor import Predictor
from ..printing import say
from .app import Server, create_app
from .options import ServeOptions

#: Open connections, idle ones included.
_CONNECTIONS = 1024


def bind(host: str, port: int) -> socket.socket:
    """A socket at a free port (0: any); raises ConfigError. Nobody can connect before `serve`."""
    if not 0 <= port < 65536:
        raise ConfigError(f"--port {port}: expected a number from 0 to 65535")
    try:
        family, kind, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ConfigError(f"--host {host} --port {port}: {reason}") from error
    return bound


def is_local(host: str) -> bool:
    """Whether only this machine reaches a host name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def web_server(server: Server) -> uvicorn.Server:
    """The web server of a model; it ends when the model stops."""
    config = uvicorn.Config(
        create_app(server),
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=round(server.options.body_seconds + server.options.seconds),
    )
    web = uvicorn.Server(config)
    server.queue.on_death = lambda: setattr(web, "should_exit", True)
    return web


def serve(predictor: Predictor[Any], options: ServeOptions, bound: socket.socket) -> None:
    """Answer requests at a bound socket until SIGINT or SIGTERM, then finish those that are
    accepted; a second signal drops them.

    Raises ResdetError where the model stopped.
    """
    server = Server(predictor, options)
    web = web_server(server)
    host, port = bound.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    bound.listen()  # who connects from now on waits for the answer
    say(f"listening on http://{address}, queue of {options.queue} images")
    with _signals_handled():
        web.run(sockets=[bound])
    if failure := server.queue.failure:
        raise ResdetError(f"the model stopped: {one_line(failure)}") from failure


@contextmanager
def _signals_handled() -> Iterator[None]:
    """Within the context, signals that uvicorn has acted on, and raises again, have no effect."""
    before = {
        number: signal.signal(number, lambda *_: None) for number in uvicorn.server.HANDLED_SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
