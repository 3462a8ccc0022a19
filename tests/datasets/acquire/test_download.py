"""Downloads from a local server that interrupts connections and gives wrong answers."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from resdet.datasets.acquire.download import DATASETS, Archive, fetch, install
from resdet.detection.download import DownloadError, download
from resdet.detection.errors import DataError

CONTENT = np.random.default_rng(0).bytes(300_000)


@dataclass
class Site:
    """What the server has and how it behaves; ``requests`` are (path, Range header)."""

    files: dict[str, bytes]
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes before hanging up, one per request
    statuses: list[int] = field(default_factory=list)  # errors to answer first
    wrong_range: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


def handler_of(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            site.requests.append((self.path, asked))
            if site.statuses:
                self.send_error(site.statuses.pop(0))
            elif self.path.startswith("/moved/"):
                self.send_response(301)
                self.send_header("Location", self.path.removeprefix("/moved"))
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif self.path not in site.files:
                self.send_error(404)
            else:
                self.send_part(site.files[self.path], asked)

        def send_part(self, content: bytes, asked: str | None) -> None:
            start = 0
            if asked and site.ranges:
                found = re.fullmatch(r"bytes=(\d+)-", asked)
                assert found
                start = int(found[1])
                self.send_response(206)
                stated = 0 if site.wrong_range else start
                last, size = len(content) - 1, len(content)
                self.send_header("Content-Range", f"bytes {stated}-{last}/{size}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + site.cut_after.pop(0) if site.cut_after else len(content)
            self.wfile.write(content[start:end])

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site(files={"/data.bin": CONTENT})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(site))
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def archive_at(*urls: str, content: bytes = CONTENT, name: str = "data.bin") -> Archive:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Archive(name, urls, len(content), digest, target=".", folder="set")


def get(archive: Archive, folder: Path, attempts: int = 3) -> Path:
    return fetch(archive, folder, attempts=attempts, pause=0.001)


def test_a_file_is_downloaded_completely_and_once(site: Site, tmp_path: Path) -> None:
    archive = archive_at(f"{site.address}/data.bin")
    path = get(archive, tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["data.bin"]
    assert get(archive, tmp_path / "new") == path
    assert site.requests == [("/data.bin", None)]


def test_an_interrupted_connection_is_continued(site: Site, tmp_path: Path) -> None:
    site.cut_after = [100_000, 50_000]
    path = get(archive_at(f"{site.address}/data.bin"), tmp_path)
    assert path.read_bytes() == CONTENT
    assert [asked for _, asked in site.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_file_of_unknown_size_continues_too(site: Site, tmp_path: Path) -> None:
    site.cut_after = [100_000]
    done: list[int] = []
    url = f"{site.address}/data.bin"
    download([url], tmp_path / "part", attempts=2, pause=0.001, progress=done.append)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [asked for _, asked in site.requests] == [None, "bytes=100000-"]
    assert done == sorted(done) and done[-1] == len(CONTENT)


def test_https_only_refuses_http(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="unknown url type"):
        download([site.address], tmp_path / "part", https_only=True, attempts=1)
    assert not site.requests


def test_part_of_an_earlier_run_is_continued(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:299_999])
    path = get(archive_at(f"{site.address}/data.bin"), tmp_path)
    assert path.read_bytes() == CONTENT
    assert site.requests == [("/data.bin", "bytes=299999-")]


def test_complete_part_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    path = get(archive_at("http://127.0.0.1:1/data.bin"), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_restarted(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    assert get(archive_at(f"{site.address}/data.bin"), tmp_path).read_bytes() == CONTENT
    assert site.requests == [("/data.bin", None)]


def test_a_server_without_ranges_restarts_the_download(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cut_after = [100_000]
    assert get(archive_at(f"{site.address}/data.bin"), tmp_path).read_bytes() == CONTENT


def test_interruptions_with_progress_do_not_count_as_attempts(site: Site, tmp_path: Path) -> None:
    site.cut_after = [30_000] * 9
    path = get(archive_at(f"{site.address}/data.bin"), tmp_path, attempts=2)
    assert path.read_bytes() == CONTENT
    assert len(site.requests) == 10


def test_interruptions_without_progress_count_as_attempts(site: Site, tmp_path: Path) -> None:
    site.cut_after = [0] * 9
    with pytest.raises(DataError, match="ended after 0 of 300000 bytes"):
        get(archive_at(f"{site.address}/data.bin"), tmp_path)
    assert len(site.requests) == 3


def test_wrong_range_is_not_appended(site: Site, tmp_path: Path) -> None:
    site.wrong_range = True
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="another range"):
        get(archive_at(f"{site.address}/data.bin"), tmp_path)
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:1000]


def test_a_temporary_server_error_is_retried(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 500]
    assert get(archive_at(f"{site.address}/data.bin"), tmp_path).read_bytes() == CONTENT


def test_the_second_address_is_used(site: Site, tmp_path: Path) -> None:
    urls = (f"{site.address}/gone.bin", f"{site.address}/data.bin")
    assert get(archive_at(*urls), tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in site.requests] == ["/gone.bin", "/data.bin"]


def test_redirect_keeps_the_range(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    assert get(archive_at(f"{site.address}/moved/data.bin"), tmp_path).read_bytes() == CONTENT
    assert site.requests[-1] == ("/data.bin", "bytes=1000-")


def test_a_wrong_checksum_is_reported_and_the_file_deleted(site: Site, tmp_path: Path) -> None:
    archive = archive_at(f"{site.address}/data.bin", content=bytes(len(CONTENT)))
    actual = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    with pytest.raises(DataError, match=rf"data\.bin.*{actual}.*{archive.md5}"):
        get(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_login_page_of_another_size_is_an_error(site: Site, tmp_path: Path) -> None:
    site.files["/data.bin"] = b"<html>please log in</html>"
    with pytest.raises(DataError, match="offers 26 bytes, expected 300000"):
        get(archive_at(f"{site.address}/data.bin"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_placed_manually_is_verified_and_kept(tmp_path: Path) -> None:
    archive = archive_at("http://127.0.0.1:1/data.bin")
    (tmp_path / "data.bin").write_bytes(CONTENT[:-1] + b"\0")
    with pytest.raises(DataError, match="delete it and run again"):
        get(archive, tmp_path)
    assert (tmp_path / "data.bin").exists()
    (tmp_path / "data.bin").write_bytes(CONTENT)
    assert get(archive, tmp_path) == tmp_path / "data.bin"


def test_without_network_the_message_has_a_manual_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        get(archive_at("http://127.0.0.1:1/data.bin"), tmp_path)
    message = str(caught.value)
    assert "refused" in message
    assert "http://127.0.0.1:1/data.bin" in message
    assert str(tmp_path / "data.bin") in message
    assert "\n" not in message
    assert caught.value.exit_code == 3


def test_local_files_cannot_be_downloaded(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    with pytest.raises(DataError, match="unknown url type"):
        get(archive_at((tmp_path / "secret").as_uri()), tmp_path / "out")


def test_folder_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        get(archive_at(f"{site.address}/data.bin"), tmp_path)


def test_not_enough_disk_space(tmp_path: Path) -> None:
    archive = Archive("huge", ("http://127.0.0.1:1/huge",), 1 << 60, "", ".", "set")
    with pytest.raises(DataError, match=r"GB free, .* needed to download huge"):
        get(archive, tmp_path)


def packed_set() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("set/JPEGImages/1.jpg")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"jpeg"))
    return buffer.getvalue()


def test_install_downloads_and_unpacks_once(site: Site, tmp_path: Path) -> None:
    site.files["/set.tar"] = packed_set()
    archive = archive_at(f"{site.address}/set.tar", content=packed_set(), name="set.tar")
    steps: list[tuple[str, int, int]] = []
    install(archive, tmp_path, progress=lambda *step: steps.append(step))
    assert (tmp_path / "set/JPEGImages/1.jpg").read_bytes() == b"jpeg"
    assert list(dict.fromkeys(what for what, _, _ in steps)) == [
        "set.tar",
        "verify set.tar",
        "unpack set.tar",
    ]
    assert all(0 <= done <= total for _, done, total in steps)

    (tmp_path / "archives/set.tar").unlink()
    (tmp_path / "set/JPEGImages/1.jpg").write_bytes(b"mine")
    install(archive, tmp_path)
    assert (tmp_path / "set/JPEGImages/1.jpg").read_bytes() == b"mine"
    assert len(site.requests) == 1


def test_interrupted_unpacking_is_repeated(site: Site, tmp_path: Path) -> None:
    site.files["/set.tar"] = packed_set()
    archive = archive_at(f"{site.address}/set.tar", content=packed_set(), name="set.tar")
    install(archive, tmp_path)
    (marker,) = (tmp_path / "set").glob(".*")
    marker.unlink()
    (tmp_path / "set/JPEGImages/1.jpg").write_bytes(b"ha")
    install(archive, tmp_path)
    assert (tmp_path / "set/JPEGImages/1.jpg").read_bytes() == b"jpeg"
    assert len(site.requests) == 1


def test_an_archive_with_other_contents_is_not_marked_complete(site: Site, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as other:
        other.addfile(tarfile.TarInfo("elsewhere/1.jpg"))
    site.files["/set.tar"] = buffer.getvalue()
    archive = archive_at(f"{site.address}/set.tar", content=buffer.getvalue(), name="set.tar")
    with pytest.raises(DataError, match="no folder set"):
        install(archive, tmp_path)


def test_published_archives_are_well_formed() -> None:
    archives = [archive for archives in DATASETS.values() for archive in archives]
    assert len({archive.md5 for archive in archives}) == len(archives) == 7
    for archive in archives:
        assert re.fullmatch("[0-9a-f]{32}", archive.md5)
        assert archive.size > 150_000_000
        assert urlsplit(archive.urls[0]).scheme == "https"
        assert all(url.endswith(f"/{archive.name}") for url in archive.urls)
