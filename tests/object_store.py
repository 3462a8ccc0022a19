"""moto's S3 on a free port of 127.0.0.1, with answers that are slow or fail as tests say."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

_ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>injected</Message></Error>'
_CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}


class _Silent(WSGIRequestHandler):
    def log(self, *args: Any) -> None:
        return


class ObjectStore:
    """``faults`` are, by the end of a key, the HTTP statuses of the first reads of it; a float is a
    delay in seconds before the usual answer, `CUT` breaks the connection in the middle of it, and
    the last fault stays if it is `ALWAYS`."""

    ALWAYS = ...
    CUT = "cut"

    def __init__(self) -> None:
        self.faults: dict[str, tuple[Any, ...]] = {}
        self.reads: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=_Silent
        )
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def __enter__(self) -> ObjectStore:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        session = boto3.Session("test", "test", region_name="us-east-1")
        self.client = session.client("s3", endpoint_url=self.url)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()

    def upload(self, folder: Path, bucket: str, prefix: str = "") -> str:
        """Put the files below a folder into a new bucket; returns the address of the folder."""
        self.client.create_bucket(Bucket=bucket)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}{path.relative_to(folder).as_posix()}"
                self.client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        return f"s3://{bucket}/{prefix}".rstrip("/")

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        key = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "GET" and "list-type" not in environ["QUERY_STRING"]:
            with self._lock:
                number = self.reads[key]
                self.reads[key] += 1
            faults = next((f for end, f in self.faults.items() if key.endswith(end)), ())
            if faults and faults[-1] is self.ALWAYS:
                fault = faults[min(number, len(faults) - 2)]
            else:
                fault = faults[number] if number < len(faults) else None
            if isinstance(fault, float):
                time.sleep(fault)
            elif fault == self.CUT:
                return _first_half(self._app(environ, start_response))
            elif fault is not None:
                start_response(f"{fault} injected", [("Content-Type", "application/xml")])
                return [_ERROR.format(_CODES[fault]).encode()]
        return self._app(environ, start_response)


def _first_half(answer: Iterable[bytes]) -> Iterable[bytes]:
    content = b"".join(answer)
    yield content[: len(content) // 2]
    raise ConnectionAbortedError
