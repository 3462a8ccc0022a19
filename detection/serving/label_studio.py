"""Label Studio's interface to a model: it sends tasks, and gets predictions in its own format.

A task holds the address of an image. Those of one Label Studio, which the operator names, are
fetched from it; no other address is ever opened.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ...datasets.formats.label_studio import shape_of
from ...datasets.records import RawObject
from ..errors import one_line
from .options import LabelStudio, RequestError

#: Seconds after which a new access token is asked for; Label Studio's hold for five minutes.
_ACCESS_SECONDS = 200
#: Characters of an address that stay as they are.
_SAFE = "%/:?&=+,;@!$'()*[]~#"


@dataclass(frozen=True)
class Interface:
    """Where a labelling interface takes results: the ``control`` tag, the ``image`` tag that it
    labels, the ``key`` of the image in a task's data, and the label for each class of the model
    that it has one for."""

    kind: str
    control: str
    image: str
    key: str
    labels: Mapping[str, str]

    @classmethod
    def read(cls, xml: str, classes: Sequence[str], *, boxes: bool) -> Interface:
        """The interface that takes boxes, or the choices of a classifier.

        A label stands for the class of its name and for those of its ``predicted_values``. Raises
        RequestError where it takes no such results or none of the classes.
        """
        tag, inner = ("RectangleLabels", "Label") if boxes else ("Choices", "Choice")
        try:
            root = fromstring(xml)
        except (ParseError, DefusedXmlException, ValueError) as error:
            raise RequestError(422, f"the labelling interface: {one_line(error)}") from error
        images = {each.get("name"): each for each in root.iter("Image")}
        for control in root.iter(tag):
            image = images.get(control.get("toName"))
            value = "" if image is None else image.get("value", "")
            if value.startswith("$"):
                break
        else:
            raise RequestError(
                422, f'the labelling interface has no <{tag}> of an <Image value="$…">'
            )
        labels = _labels(control, inner, classes)
        if not labels:
            raise RequestError(
                422,
                f"no label of <{tag}> is a class of the model ({', '.join(classes[:20])}): name"
                ' the labels so, or give them predicted_values="class,class"',
            )
        return cls(
            tag.lower(), control.get("name", ""), control.get("toName", ""), value[1:], labels
        )

    def address_in(self, task: Mapping[str, Any]) -> str:
        """The address of a task's image; raises RequestError."""
        data = task.get("data")
        value = data.get(self.key) if isinstance(data, dict) else None
        if not isinstance(value, str) or not value:
            raise RequestError(422, f"its data has no text {self.key!r}")
        return value

    def prediction(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The prediction for an image from its record; its score is the mean of its results'."""
        size = (record["height"], record["width"])
        found = record.get("classes", record.get("detections", ()))
        kept = [each for each in found if each["label"] in self.labels]
        results = [self._result(each, size) for each in kept]
        scores = [each["score"] for each in kept]
        return {"result": results, "score": sum(scores) / len(scores) if scores else 0.0}

    def _result(self, found: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        label = self.labels[found["label"]]
        if self.kind == "choices":
            value = {"type": "choices", "value": {"choices": [label]}, "score": found["score"]}
        else:
            value = shape_of(RawObject(label, tuple(found["box"]), score=found["score"]), size)
        return value | {"from_name": self.control, "to_name": self.image}


def _labels(control: Element, inner: str, classes: Sequence[str]) -> dict[str, str]:
    labels = {}
    for label in control.iter(inner):
        name = label.get("value", "")
        others = (each.strip() for each in label.get("predicted_values", "").split(","))
        labels.update({each: name for each in (name, *others) if each in classes})
    return labels


class ImageFetcher:
    """Fetches images of a `LabelStudio`, of at most ``max_bytes``, within ``seconds``."""

    def __init__(self, source: LabelStudio, max_bytes: int, seconds: float) -> None:
        self.source, self.max_bytes, self.seconds = source, max_bytes, seconds
        self._opener: OpenerDirector = build_opener(_NoRedirects)
        self._access = ("", 0.0)

    def fetch(self, address: str) -> bytes:
        """The bytes of an image at an address in a task; raises RequestError."""
        if address.startswith("data:"):
            return self._decoded(address)
        try:
            url = urljoin(self.source.address.rstrip("/") + "/", address)
            if _origin(url) != _origin(self.source.address):
                raise ValueError(f"not an image of {self.source.address}; no others are opened")
            url = quote(
                url, safe=_SAFE
            )  # names of local files have spaces and letters of all scripts
            return self._read(Request(url, headers=self._headers()))  # noqa: S310  http, see above
        except HTTPError as error:
            hint = ": set LABEL_STUDIO_API_KEY" if error.code in (401, 403) else ""
            raise RequestError(
                422, f"{address[:200]}: {error.code} {error.reason}{hint}"
            ) from error
        except (HTTPException, OSError, ValueError) as error:
            reason = one_line(error) or type(error).__name__
            raise RequestError(422, f"{address[:200]}: {reason}") from error

    def _decoded(self, address: str) -> bytes:
        head, _, text = address.partition(",")
        if not head.endswith(";base64"):
            raise RequestError(422, f"{head[:40]}: expected data:image/…;base64")
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise RequestError(422, f"{head[:40]}: {error}") from error

    def _read(self, request: Request) -> bytes:
        with self._opener.open(request, timeout=self.seconds) as answer:
            data: bytes = answer.read(self.max_bytes + 1)
            stated = int(answer.headers.get("Content-Length", len(data)))
        if len(data) > self.max_bytes:
            raise RequestError(413, f"{request.full_url[:200]}: over {self.max_bytes} bytes")
        if len(data) < stated:
            raise ValueError(f"ended after {len(data)} of {stated} bytes")
        return data

    def _headers(self) -> dict[str, str]:
        key = self.source.key
        if not key:
            return {}
        if key.count(".") != 2:
            return {"Authorization": f"Token {key}"}
        access, since = self._access  # a personal access token only buys short-lived ones
        if time.monotonic() - since > _ACCESS_SECONDS or not access:
            url = urljoin(self.source.address.rstrip("/") + "/", "api/token/refresh")
            body = json.dumps({"refresh": key}).encode()
            headers = {"Content-Type": "application/json"}
            request = Request(url, body, headers)  # noqa: S310  the operator's address
            answer = json.loads(self._read(request))
            if not isinstance(answer, dict) or not isinstance(answer.get("access"), str):
                raise ValueError("Label Studio gave no access token for LABEL_STUDIO_API_KEY")
            access = answer["access"]
            self._access = (access, time.monotonic())
        return {"Authorization": f"Bearer {access}"}


class _NoRedirects(HTTPRedirectHandler):
    """A redirect is an error: it would lead away from the one server that is asked."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port
