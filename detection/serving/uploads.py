"""Bodies of requests, within limits of size, memory and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from .options import RequestError, ServeOptions

#: Types of raw bytes, beside images: the second is curl's for ``--data-binary``.
_BYTES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
#: So many of the largest bodies are in memory at a time.
_BODIES = 16
_LONGEST_NAME = 255

T = TypeVar("T")


@dataclass(frozen=True)
class Upload:
    """An encoded image and the name that its sender gives it."""

    name: str
    data: bytes


class BodyReader:
    """The images of requests; counts the bytes of all that are being read or answered."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.held = 0

    @contextmanager
    def holding(self) -> Iterator[Holding]:
        """A place for one body, whose bytes are given back at the end."""
        holding = Holding(self)
        try:
            yield holding
        finally:
            self.held -= holding.size


@dataclass
class Holding:
    """The bytes of one body in memory."""

    reader: BodyReader
    size: int = 0

    async def images(self, request: Request, name: str) -> list[Upload]:
        """The image of a raw body, which is called ``name``, or those of a multipart form.

        Raises RequestError: 408 too slow, 413 too large, 415 of another type, 400 no image or a
        damaged form, 503 too many bodies at a time. Raises ClientDisconnect.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        form = kind == "multipart/form-data"
        if not form and not kind.startswith("image/") and kind not in _BYTES:
            raise RequestError(
                415, f"{kind[:80]}: send the bytes of an image, or a form (multipart/form-data)"
            )
        if form:
            uploads = await self._in_time(self._form(request))
        else:
            data = await self.body(request)
            uploads = [Upload(name, data)] if data else []
        if not uploads:
            raise RequestError(400, "no image: send its bytes, or a form with files")
        return [Upload(_safe(each.name), each.data) for each in uploads]

    async def body(self, request: Request) -> bytes:
        """The whole body; raises RequestError, 408, 413 or 503, and ClientDisconnect."""
        return await self._in_time(self._joined(request))

    async def _joined(self, request: Request) -> bytes:
        return b"".join([part async for part in self.parts(request)])

    async def _in_time(self, reading: Awaitable[T]) -> T:
        seconds = self.reader.options.body_seconds
        try:
            async with asyncio.timeout(seconds):
                return await reading
        except TimeoutError:
            raise RequestError(408, f"the body did not arrive within {seconds:g} seconds") from None

    async def parts(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, counted; raises RequestError where it is too large."""
        limit = self.reader.options.max_bytes
        large = RequestError(413, f"the body is over {limit} bytes")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            await self._discard(request.stream())
            raise large
        stream = request.stream()
        async for part in stream:
            self.count(len(part))
            if self.size > limit:
                await self._discard(stream)
                raise large
            yield part

    def count(self, size: int) -> None:
        """Add bytes that came into memory; raises RequestError, 503, where they are too many."""
        self.size += size
        self.reader.held += size
        if self.reader.held > _BODIES * self.reader.options.max_bytes:
            raise RequestError(503, "busy: many large bodies", retry_after=1)

    async def _discard(self, stream: AsyncIterator[bytes]) -> None:
        """Read on a little: a client that is still sending would not see the answer."""
        left = self.reader.options.max_bytes
        async for part in stream:
            left -= len(part)
            if left < 0:
                return

    async def _form(self, request: Request) -> list[Upload]:
        limit = self.reader.options.max_images
        parser = MultiPartParser(
            request.headers, self.parts(request), max_files=limit, max_fields=limit
        )
        parser.spool_max_size = self.reader.options.max_bytes + 1  # no temporary files
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise RequestError(400, f"the form cannot be read: {error.message}") from error
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        uploads = [Upload(file.filename or "", await file.read()) for file in files]
        await form.close()
        return uploads


def _safe(name: str) -> str:
    """A name that JSON can hold."""
    return name.encode("utf-8", "replace").decode("utf-8")[:_LONGEST_NAME]
