"""Weights by path, URL and name; a real https server on this machine, and none at all."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from resdet.backbones.weights.fetch import resolve
from resdet.detection.errors import WeightsError

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/short.pth":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"half")
        elif self.path == "/moved.pth":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/a.pth")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Not into the test's output."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the test's certificate")
    files = {"-keyout": tmp_path / "key.pem", "-out": tmp_path / "cert.pem"}
    options = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    paths = [str(word) for pair in files.items() for word in pair]
    subprocess.run([openssl, *options, *names, *paths], check=True, capture_output=True)
    served = tmp_path / "served"
    served.mkdir()
    (served / "a.pth").write_bytes(CONTENT)
    (served / f"net-{DIGEST[:8]}.pth").write_bytes(CONTENT)
    handler = functools.partial(_Handler, directory=str(served))
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["-out"], files["-keyout"])
    web.socket = context.wrap_socket(web.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(files["-out"]))
    monkeypatch.setenv("no_proxy", "localhost")
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"https://localhost:{web.server_address[1]}"
    web.shutdown()
    web.server_close()


def test_download_once_then_from_the_cache(server: str, cache: Path) -> None:
    first = resolve(f"{server}/a.pth", cache)
    assert first.read_bytes() == CONTENT
    first.write_bytes(b"changed by hand")
    assert resolve(f"{server}/a.pth", cache).read_bytes() == b"changed by hand"
    assert list(cache.iterdir()) == [first]


def test_checksum(server: str, cache: Path) -> None:
    url = f"{server}/net-{DIGEST[:8]}.pth#sha256={DIGEST[:8]}"
    path = resolve(url, cache)
    assert path == cache / f"net-{DIGEST[:8]}.pth"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=f"SHA-256 does not start {DIGEST[:8]}; delete it"):
        resolve(url, cache)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("a.pth#sha256=00000000", "SHA-256 does not start 00000000"),
        ("short.pth", "ended after 4 of 100 bytes"),
        ("none.pth", "404"),
        ("moved.pth", "url type: http"),
    ],
)
def test_failed_downloads_leave_nothing(server: str, cache: Path, file: str, reason: str) -> None:
    with pytest.raises(WeightsError, match=reason) as caught:
        resolve(f"{server}/{file}", cache)
    assert f"put the file at {cache}" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_no_network_says_where_to_put_the_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a port that nothing listens on
    monkeypatch.setenv("no_proxy", "")
    name = "torchvision:ResNet101_Weights.IMAGENET1K_V2"
    with pytest.raises(WeightsError, match=r"cannot download: .*by hand") as caught:
        resolve(name, cache)
    place = cache / "resnet101-cd907fc2.pth"
    assert f"put the file at {place} by hand" in str(caught.value)
    place.write_bytes(b"not it")
    with pytest.raises(WeightsError, match="does not start cd907fc2"):
        resolve(name, cache)


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=str(tmp_path / "mine")):
        resolve("https://example.invalid/a.pth")


def test_a_cache_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot download"):
        resolve("https://example.invalid/a.pth", tmp_path / "file" / "cache")


def test_paths(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"x")
    assert resolve(str(path)) == path
    with pytest.raises(WeightsError, match=r"none\.pth: no such weights file"):
        resolve(str(tmp_path / "none.pth"))
    with pytest.raises(WeightsError, match="no such weights file"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("http://example.invalid/a.pth", "https only"),
        ("file:///etc/hostname", "https only"),
        ("torchvision:ResNet7_Weights.DEFAULT", "torchvision has no such weights"),
        ("torchvision:ResNet50_Weights.NONE", "torchvision has no such weights"),
        ("torchvision:", "torchvision has no such weights"),
        ("https://example.invalid/a.pth#md5=12345678", "only sha256="),
    ],
)
def test_invalid_specs(spec: str, reason: str, cache: Path) -> None:
    with pytest.raises(WeightsError, match=reason):
        resolve(spec, cache)
