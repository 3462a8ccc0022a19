"""Real servers on free ports, with a model that finds coloured spots."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resdet.detection.extras import EXTRAS
from resdet.detection.inference.predictor import Predictor
from resdet.detection.structures import Batch, Detections
from resdet.tests.detection.inference.conftest import CLASSES, SpotFinder


@pytest.fixture(scope="session", autouse=True)
def extra() -> None:
    for name in (*EXTRAS["serve"], "httpx"):
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[serve]' httpx")


class HeldFinder(SpotFinder):
    """A `SpotFinder` that waits for ``go`` and raises ``error``."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.called = Event(), Event()
        self.error: BaseException | None = None

    def predict(self, batch: Batch) -> list[Detections]:
        self.called.set()
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        return super().predict(batch)


class Serving:
    """A server under test: ``get``, ``post`` and a whole ``client`` of httpx."""

    def __init__(self, server: Any, web: Any, client: Any, thread: threading.Thread) -> None:
        self.server, self.web, self.client, self.thread = server, web, client, thread
        self.get, self.post = client.get, client.post
        self.port = client.base_url.port

    def wait_until(self, condition: Callable[[], object]) -> None:
        for _ in range(1000):
            if condition():
                return
            time.sleep(0.01)
        raise AssertionError("it did not happen")


@contextmanager
def serving(predictor: Predictor, **options: Any) -> Iterator[Serving]:
    """The real web server in a thread, stopped gracefully at the end."""
    import httpx
    from resdet.detection.serving.app import Server
    from resdet.detection.serving.options import ServeOptions
    from resdet.detection.serving.run import bind, web_server

    server = Server(predictor, ServeOptions(**options))
    web, bound = web_server(server), bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    thread = threading.Thread(target=web.run, args=([bound],))
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
        served = Serving(server, web, client, thread)
        try:
            served.wait_until(lambda: web.started)
            yield served
        finally:
            client.close()
            web.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not end"


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    with ExitStack() as stack:
        yield lambda predictor, **options: stack.enter_context(serving(predictor, **options))


@pytest.fixture(scope="session")
def predictor_of_spots() -> Predictor:
    return Predictor(SpotFinder(), classes=CLASSES)


@pytest.fixture(scope="session")
def spots(predictor_of_spots: Predictor, extra: None) -> Iterator[Serving]:
    """One server for all tests that leave it as it is; bodies of at most 100 kB."""
    with serving(predictor_of_spots, max_bytes=100_000, body_seconds=1) as served:
        yield served


@pytest.fixture(scope="session")
def named(predictor_of_spots: Predictor, extra: None) -> Iterator[Serving]:
    """A server that has a name."""
    with serving(predictor_of_spots, hosts=("cameras.example",)) as served:
        yield served


@pytest.fixture
def held(serve: Callable[..., Serving]) -> Iterator[Callable[..., tuple[Serving, HeldFinder]]]:
    """A server whose model waits, and the model."""
    models = []

    def start(**options: Any) -> tuple[Serving, HeldFinder]:
        models.append(HeldFinder())
        return serve(Predictor(models[-1], classes=CLASSES), **options), models[-1]

    yield start
    for model in models:
        model.go.set()


def png(size: tuple[int, int] = (40, 60), colour: tuple[int, int, int] = (250, 20, 20)) -> bytes:
    """A grey image (h, w) with a coloured spot from (10, 5) to (30, 25)."""
    pixels = np.full((*size, 3), 90, dtype=np.uint8)
    pixels[5:25, 10:30] = colour
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
