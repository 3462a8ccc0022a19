"""The page of a server, where people try its model: static files without foreign resources."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response

_FOLDER = Path(__file__).parent
#: {path: (file, type)}
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_page(app: FastAPI) -> None:
    """Serve the files."""
    for path, (name, kind) in FILES.items():
        _add_file(app, path, (_FOLDER / name).read_bytes(), kind)


def _add_file(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(
            content,
            media_type=f"{kind}; charset=utf-8",
            headers={"content-security-policy": _POLICY, "cache-control": "no-cache"},
        )
