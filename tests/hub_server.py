"""A small Hugging Face Hub on a free port of this machine: what huggingface_hub calls to make a
repository, to upload a commit with files in LFS, and to download a file."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import yaml

#: The token that may write.
TOKEN = "hf_test"  # noqa: S105
_COMMIT = "1" * 40


class HubServer:
    """``files`` are {repository: {path: content}}; ``private`` the repositories made as such."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Hub", (_Handler,), {"hub": self})
        )
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *words: object) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: object = b"", code: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body, path = self._body(), self.path
        if path.endswith("/info/lfs/objects/batch"):
            return self._answer(
                {
                    "transfer": "basic",
                    "objects": list(map(self._object, json.loads(body)["objects"])),
                }
            )
        if path == "/api/validate-yaml":
            facts = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            errors = [] if "license" in facts else [{"message": '"license" is required'}]
            return self._answer({"errors": errors, "warnings": []}, 400 if errors else 200)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        repo = "/".join(path.split("/")[3:5])  # /api/models/OWNER/NAME/...
        if "/preupload/" in path:
            modes = [self._mode(each["path"]) for each in json.loads(body)["files"]]
            return self._answer({"files": modes})
        if "/commit/" in path and repo in self.hub.files:
            return self._commit(repo, [json.loads(line) for line in body.splitlines()])
        return self._answer(code=404)

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        known = repo in self.hub.files
        self.hub.files.setdefault(repo, {})
        wanted = asked.get("visibility") == "private" or asked.get("private")
        if wanted and not known:  # as the Hub: an existing one stays as it is
            self.hub.private.add(repo)
        self._answer({"url": f"{self.hub.address}/{repo}"}, 409 if known else 200)

    @staticmethod
    def _mode(path: str) -> dict[str, object]:
        mode = "regular" if path.endswith(".md") else "lfs"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def _object(self, asked: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.address}/upload/{asked['oid']}"
        return {**asked, "actions": {"upload": {"href": href, "header": {}}}}

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[repo][value["path"]] = self.hub.objects[value["oid"]]
        url = f"{self.hub.address}/{repo}/commit/{_COMMIT}"
        self._answer({"success": True, "commitOid": _COMMIT, "commitUrl": url})

    def do_PUT(self) -> None:
        oid, data = self.path.rpartition("/")[2], self._body()
        if hashlib.sha256(data).hexdigest() != oid:
            return self._answer(code=422)
        self.hub.objects[oid] = data
        self._answer()

    def do_GET(self) -> None:
        asked = self.path.removeprefix("/api/models/")
        if asked in self.hub.files:
            return self._answer({"id": asked, "private": asked in self.hub.private})
        repo, _, rest = self.path.strip("/").partition("/resolve/")
        content = self.hub.files.get(repo, {}).get(rest.partition("/")[2])
        if content is None:
            what = "EntryNotFound" if repo in self.hub.files else "RepoNotFound"
            return self._answer({"error": "not found"}, 404, X_Error_Code=what)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._answer(content, ETag=etag, X_Repo_Commit=_COMMIT)

    do_HEAD = do_GET
