"""The paths below ``/label-studio`` that a Label Studio asks, of which it is told that address."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from ... import __version__
from ..files import sha256_of
from ..inference.outputs import ClassOutput
from ..inference.predictor import Predictor
from ..printing import say
from .label_studio import ImageFetcher, Interface
from .options import LabelStudio, RequestError
from .uploads import Holding, Upload

if TYPE_CHECKING:
    from .app import Server


def add_label_studio(app: FastAPI, server: Server, source: LabelStudio) -> None:
    """Answer ``/label-studio/health``, ``/setup`` and ``/predict``."""
    backend = _Backend(server, source)

    @app.get("/label-studio/health", include_in_schema=False)
    async def health() -> Response:
        """Whether there is a model."""
        return JSONResponse({"status": "UP", "model_class": "resdet"})

    @app.post("/label-studio/setup", include_in_schema=False)
    async def setup(request: Request) -> Response:
        """Whether the model can label with the interface of a project."""
        with server.bodies.holding() as holding:
            asked = await _json(request, holding)
        backend.tell_missing(backend.interface(asked.get("schema")))
        return JSONResponse({"model_version": backend.version})

    @app.post("/label-studio/predict", include_in_schema=False)
    async def predict(request: Request) -> Response:
        """A prediction for each task."""
        with server.bodies.holding() as holding:
            asked = await _json(request, holding)
            interface = backend.interface(asked.get("label_config"))
            results = await backend.predictions(request, holding, asked.get("tasks"), interface)
        return JSONResponse({"results": results, "model_version": backend.version})


async def _json(request: Request, holding: Holding) -> dict[str, Any]:
    try:
        asked = json.loads(await holding.body(request))
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "the body is not JSON") from error
    if not isinstance(asked, dict):
        raise RequestError(400, "the body is not a JSON object")
    return asked


class _Backend:
    """The model of a server as Label Studio sees it.

    ``version`` changes with the content of the weights: Label Studio keeps the predictions of each.
    """

    def __init__(self, server: Server, source: LabelStudio) -> None:
        self.server, options = server, server.options
        self.fetcher = ImageFetcher(source, options.max_bytes, options.body_seconds)
        self.version = _version(server.predictor)

    def interface(self, xml: Any) -> Interface:
        """Raises RequestError where the model cannot label with it."""
        if not isinstance(xml, str):
            raise RequestError(422, "the request has no labelling interface")
        predictor = self.server.predictor
        boxes = not isinstance(predictor.output, ClassOutput)
        return Interface.read(xml, predictor.classes, boxes=boxes)

    def tell_missing(self, interface: Interface) -> None:
        missing = [each for each in self.server.predictor.classes if each not in interface.labels]
        if missing:
            say(f"warning: not in Label Studio's interface, so left out: {', '.join(missing)}")

    async def predictions(
        self, request: Request, holding: Holding, tasks: Any, interface: Interface
    ) -> list[list[dict[str, Any]]]:
        """The prediction of each task, in a list; none where its image cannot be used, which the
        server's output says. Raises RequestError where all cannot."""
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise RequestError(422, "tasks: expected a list of objects")
        results: list[list[dict[str, Any]]] = []
        failures: list[RequestError] = []
        for task in tasks:
            held = holding.size
            try:
                record = await self._record(request, holding, task, interface)
            except RequestError as error:
                if error.status == 503:
                    raise
                failures.append(error)
                say(f"warning: {error}")
                results.append([])
            else:
                if self.server.predictor.output.one_object:
                    record = {**record, "detections": record["detections"][:1]}
                made = interface.prediction(record) | {"model_version": self.version}
                results.append([made])
            finally:
                holding.count(held - holding.size)
        if failures and not any(results):
            raise failures[0]
        return results

    async def _record(
        self, request: Request, holding: Holding, task: dict[str, Any], interface: Interface
    ) -> dict[str, Any]:
        """The record of a task's image; raises RequestError."""
        name = f"task {task.get('id')}"
        try:
            address = interface.address_in(task)
            data = await asyncio.to_thread(self.fetcher.fetch, address)
        except RequestError as error:
            raise RequestError(error.status, f"{name}: {error}") from error
        holding.count(len(data))
        thresholds = self.server.thresholds(None, [])
        (record,) = await self.server.records(request, [Upload(name, data)], thresholds)
        if "error" in record:
            refused = record.get("status")
            raise RequestError(refused.status if refused else 422, f"{name}: {record['error']}")
        return record


def _version(predictor: Predictor[Any]) -> str:
    """The names of the weights and the first digits of their content's hash."""
    names = []
    for path in predictor.facts.origin:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        hashes = "".join(sha256_of(each) for each in files if each.is_file())
        names.append(f"{path.name} {sha256(hashes.encode()).hexdigest()[:8]}")
    return ", ".join(names) or f"resdet {__version__}"
