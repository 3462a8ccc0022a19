"""The HTTP interface of a model: predictions, what the model is, whether it works, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ... import __version__
from ..errors import ConfigError, ImageError
from ..inference.image_results import labels_of
from ..inference.options import FolderOptions
from ..inference.outputs import ClassOutput
from ..inference.predictor import Predictor
from .answers import ErrorAnswer, FormAnswer, ImageAnswer, ModelAnswer
from .guard import Guard
from .label_studio_routes import add_label_studio
from .metrics import Metrics
from .model_queue import ModelQueue, QueuedImage, stopped
from .options import RequestError, ServeOptions
from .page import add_page
from .uploads import BodyReader, Upload

_ERRORS: Any = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in (
        (400, "No image, or a damaged form"),
        (401, "Without the token"),
        (408, "The body took too long"),
        (413, "Too many bytes or pixels"),
        (415, "No image and no form"),
        (421, "Called by another name than the server's"),
        (422, "An image that cannot be used (of a form: all of them), or a wrong parameter"),
        (503, "Busy, see Retry-After; or the model has stopped"),
    )
}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_BODY: Any = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {"schema": {"type": "object", "properties": {"images": _FILES}}},
        },
    }
}


class Server:
    """A predictor and what its requests share."""

    def __init__(self, predictor: Predictor[Any], options: ServeOptions) -> None:
        self.predictor, self.options = predictor, options
        self.metrics = Metrics()
        self.queue = ModelQueue(predictor, options, self.metrics)
        self.metrics.watch(lambda: self.queue.pending)
        self.bodies = BodyReader(options)

    def thresholds(self, score: float | None, classes: list[str]) -> Any:
        """The minimum scores (K,) that a request asks for; raises RequestError."""
        try:
            labels_of(classes, self.predictor.classes)
        except ConfigError as error:
            raise RequestError(422, str(error)) from error
        least = self.predictor.score_threshold if score is None else score
        chosen = FolderOptions(score_threshold=least, only_classes=tuple(classes))
        return chosen.thresholds(self.predictor.classes)

    async def predict(
        self, request: Request, name: str, score: float | None, classes: list[str]
    ) -> list[dict[str, Any]]:
        """The record of each image of a request, or a record with its error.

        Raises RequestError, and ClientDisconnect where the client has gone.
        """
        thresholds = self.thresholds(score, classes)
        self.queue.expect_room()
        with self.bodies.holding() as holding:
            return await self.records(request, await holding.images(request, name), thresholds)

    async def records(
        self, request: Request, uploads: list[Upload], thresholds: Any
    ) -> list[dict[str, Any]]:
        """The record of each image, or a record with its error; raises as `predict`."""
        images = [QueuedImage(each.name, each.data, thresholds) for each in uploads]
        self.queue.submit(images)
        uploads.clear()  # the queue lets go of each image's bytes as it is decoded
        started = time.perf_counter()
        try:
            found = await self._answers(request, images)
        except (ClientDisconnect, RequestError):
            self.metrics.images.labels("gone").inc(len(images))
            raise
        self.metrics.answering.observe(time.perf_counter() - started)
        return [self._record(image.name, one) for image, one in zip(images, found, strict=True)]

    async def _answers(self, request: Request, images: list[QueuedImage]) -> list[Any]:
        """The records of images, or their errors; cancels them when nobody waits any more."""
        answers: asyncio.Future[Any] = asyncio.gather(
            *(asyncio.wrap_future(image.future) for image in images), return_exceptions=True
        )
        gone: asyncio.Future[Any] = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait(
                [answers, gone],
                timeout=self.options.seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answers.done():
                return answers.result()
            if gone.done():
                raise ClientDisconnect
            raise RequestError(503, "no answer in time: the server is busy", retry_after=30)
        finally:
            gone.cancel()
            for image in images:
                image.future.cancel()
            self.queue.drop_cancelled()

    def _record(self, name: str, found: Any) -> dict[str, Any]:
        if isinstance(found, dict):
            self.metrics.images.labels("ok").inc()
            return found
        if isinstance(found, ImageError):
            self.metrics.images.labels("bad").inc()
            return {"file": name, "error": str(found)}
        self.metrics.images.labels("refused").inc()
        if isinstance(found, RequestError):
            return {"file": name, "error": str(found), "status": found}
        raise found

    def describe(self) -> dict[str, Any]:
        """The content of `ModelAnswer`."""
        model = self.predictor
        return {
            "architecture": model.facts.architecture,
            "classes": list(model.classes),
            "results": "classes" if isinstance(model.output, ClassOutput) else "detections",
            "testing": model.testing,
            "score_threshold": model.score_threshold,
            "device": str(model.device),
            "precision": model.precision,
            "weights": [Path(path).name for path in model.facts.origin],
            "version": __version__,
        }


async def _disconnected(request: Request) -> None:
    """Return once the client has gone; its body is read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(server: Server) -> FastAPI:
    """The application of a server; it starts the threads of the model and ends them."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.queue.start()
        yield
        await asyncio.to_thread(server.queue.close)

    app = FastAPI(
        title="resdet",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        telemetry={"auto_configure": False},
    )
    _add_errors(app)

    @app.post(
        "/predict",
        responses={200: {"model": ImageAnswer | FormAnswer}, **_ERRORS},
        openapi_extra=_BODY,
    )
    async def predict(
        request: Request,
        score: Annotated[float | None, Query(ge=0, le=1, description="minimum score")] = None,
        classes: Annotated[list[str] | None, Query(description="only these classes")] = None,
        file: Annotated[str, Query(max_length=255, description="name of a raw image")] = "",
    ) -> Response:
        """Predict the image that is the body, or those of a form: one record, or `images`."""
        records = await server.predict(request, file, score, classes or [])
        form = request.headers.get("content-type", "").lower().startswith("multipart/")
        refused = [each.pop("status", None) for each in records]
        if any("error" not in each for each in records):
            status, headers = 200, {}
        else:
            first = refused[0]
            status, headers = (first.status, first.headers) if first else (422, {})
        return JSONResponse({"images": records} if form else records[0], status, headers)

    @app.get("/model", responses={200: {"model": ModelAnswer}, 401: _ERRORS[401]})
    async def model() -> Response:
        """The model: its network, classes and settings."""
        return JSONResponse(server.describe())

    @app.get("/healthz")
    async def healthz() -> Response:
        """Whether the process answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", responses={503: _ERRORS[503]})
    async def readyz() -> Response:
        """Whether the model answers."""
        if failure := server.queue.failure:
            raise stopped(failure)
        if not server.queue.alive:
            raise RequestError(503, "the model is starting or stopping", retry_after=1)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(server.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    add_page(app)
    if server.options.label_studio is not None:
        add_label_studio(app, server, server.options.label_studio)
    paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))
    app.add_middleware(
        Guard,
        metrics=server.metrics,
        paths=paths,
        token=server.options.token,
        hosts=server.options.hosts,
    )
    return app


def _add_errors(app: FastAPI) -> None:
    """Answer each error as `ErrorAnswer`."""

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return JSONResponse({"error": str(error)}, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        reasons = [f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"error": "; ".join(reasons)}, 422)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # which nobody reads; counted
