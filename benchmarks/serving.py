"""Throughput of ``resdet serve`` beside the predictor, hostile uploads, and a stop under load.

    python benchmarks/serving.py [--clients 16] [--uploads 500] [--json out.json]

The predictor and a server with the same networks predict the same JPEG files in turns, the server
for clients in a process of their own; by wall time, and by time on all cores, which other load
changes less. Then broken, oversized, slow and cut uploads are sent: none may be answered with 500;
queue, memory, threads and open files are compared before and after. At last a server is stopped
while requests wait: each one that was accepted has to be answered.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from folder import resident
from measuring import in_turns, make_parser, ratios, write_json
from PIL import Image
from resdet.detection.config.files import config_from_dict
from resdet.detection.engine.checkpoint import save_checkpoint
from resdet.detection.predictor import load
from resdet.detection.processor import keep_memory
from resdet.detection.tasks.detector_network import build_detector

CLASSES = ["cat", "dog"]
BOMB = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)


def main() -> None:
    parser = make_parser(
        __doc__,
        depth=50,
        width=64,
        side=200,
        images=48,
        clients=16,
        uploads=500,
        repeats=3,
        threads=2,
    )
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    keep_memory()  # as the server does
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name) / "best.pt"
        write_weights(weights, args)
        files = [jpeg(np.random.default_rng(number), args.side) for number in range(args.images)]
        with Process(weights) as served:
            report = {
                "throughput": measure(served, load(weights, "cpu"), files, args),
                "hostile": attack(served, files[0], args.uploads),
                "stop": stop_under_load(served, files, args.clients),
            }
    print_report(report)
    write_json(report, args)


def write_weights(path: Path, args: argparse.Namespace) -> None:
    config = config_from_dict(
        {
            "image": {"short_side_test": args.side, "long_side_max": 2 * args.side},
            "backbone": {"depth": args.depth, "width": args.width, "norm": "batch"},
            "rpn": {"post_nms_test": 50},
            "roi": {"pool_size": 7},
            "test": {"score_threshold": 0.3},
        }
    )
    model = build_detector(config, len(CLASSES)).state_dict()
    stored = {"config": config.model_dump(mode="json"), "classes": CLASSES, "model": model}
    save_checkpoint(path, {**stored, "step": 0})


def jpeg(numbers: np.random.Generator, side: int) -> bytes:
    stream = io.BytesIO()
    small = numbers.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(small).resize((4 * side, 3 * side)).save(stream, "JPEG")
    return stream.getvalue()


class Process:
    """``resdet serve`` at a free port."""

    def __init__(self, weights: Path) -> None:
        command = [sys.executable, "-m", "resdet.tools.cli", "serve", "--weights", str(weights)]
        self.child = subprocess.Popen(  # noqa: S603  itself
            [*command, "--port", "0", "--device", "cpu"], stdout=subprocess.PIPE, text=True
        )
        assert self.child.stdout is not None  # noqa: S101  narrows types
        for line in self.child.stdout:
            if "listening on" in line:
                self.port = int(line.split(",")[0].rpartition(":")[2])
                return
        raise SystemExit("the server did not start")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.child.kill()
        self.child.wait()

    def metric(self, name: str) -> float:
        lines = get(self.port, "/metrics").splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(name + " ")))

    def cpu_seconds(self) -> float:
        words = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def state(self) -> dict[str, float]:
        """Resident MB, threads, open files and images in the queue, at rest."""
        folder = Path(f"/proc/{self.child.pid}")
        return {
            "MB": resident(self.child.pid) / 1e6,
            "threads": len(list((folder / "task").iterdir())),
            "files": len(list((folder / "fd").iterdir())),
            "queue": self.metric("resdet_queue_images"),
        }


def get(port: int, path: str) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def post(port: int, content: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("POST", "/predict", content, headers or {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


# --------------------------------------------------------------------------------- throughput


def post_all(port: int, files: list[bytes], clients: int) -> list[tuple[int, bytes]]:
    """Called in a process of its own, so that clients do not take the server's time."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda content: post(port, content), files))


def measure(
    served: Process, predictor: Any, files: list[bytes], args: argparse.Namespace
) -> dict[str, Any]:
    cpu: dict[str, list[float]] = {"predictor": [], "server": []}
    clocks = {"predictor": time.process_time, "server": served.cpu_seconds}
    with ProcessPoolExecutor(1, get_context("spawn")) as outside:

        def through_the_server() -> list[tuple[int, bytes]]:
            return outside.submit(post_all, served.port, files, args.clients).result()

        if {status for status, _ in through_the_server()} != {200}:
            raise SystemExit("the server did not answer every image")

        def counted(name: str, call: Callable[[], object]) -> None:
            before = clocks[name]()
            call()
            # The system counts another process's time in hundredths of a second.
            cpu[name].append(max(clocks[name]() - before, 0.01))

        calls = {"predictor": lambda: predictor(files), "server": through_the_server}
        sides = {name: partial(counted, name, call) for name, call in calls.items()}
        seconds = in_turns(sides, repeats=args.repeats, warmup=1)
    return {
        "images_per_s": {name: [len(files) / each for each in s] for name, s in seconds.items()},
        "share": ratios(seconds["predictor"], seconds["server"]),
        "cpu_share": ratios(cpu["predictor"][1:], cpu["server"][1:]),
    }


# ------------------------------------------------------------------------------------ hostile


def attack(served: Process, good: bytes, count: int) -> dict[str, Any]:
    """Send ``count`` uploads that nobody should send, after some that fill caches."""
    chosen = random.Random(0)  # noqa: S311  no secret
    kinds = list(UPLOADS.values())

    def send(number: int) -> int:
        try:
            return kinds[number % len(kinds)](served.port, good, chosen)
        except (OSError, ValueError):  # the connection was closed
            return 0

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(max(len(kinds), count // 4))))
        before = at_rest(served)
        statuses = Counter(pool.map(send, range(count)))
    after = at_rest(served)
    status, _ = post(served.port, good)
    if status != 200 or any(number >= 500 and number != 503 for number in statuses):
        raise SystemExit(f"answers: {dict(statuses)}, then {status} for a good image")
    return {"answers": dict(sorted(statuses.items())), "before": before, "after": after}


def at_rest(served: Process) -> dict[str, float]:
    """The state once nothing is left to do."""
    for _ in range(300):
        if not served.metric("resdet_queue_images"):
            break
        time.sleep(0.1)
    time.sleep(1)
    return served.state()


def raw(port: int, data: bytes, *, wait: float = 0, answer: bool = True) -> int:
    """The status of bytes on a connection; 0 where it is cut without reading."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(data)
        time.sleep(wait)
        if not answer:
            return 0
        words = connection.recv(100).split()
        return int(words[1]) if len(words) > 1 else 0


def head(length: int, kind: str = "image/jpeg") -> bytes:
    return (
        f"POST /predict HTTP/1.1\r\nHost: [::]\r\nConnection: close\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 black pixels in a few kilobytes."""
    parts = [(b"IHDR", BOMB), (b"IDAT", zlib.compress(bytes(5_000_000))), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def form(content: bytes, disposition: str) -> tuple[bytes, dict[str, str]]:
    body = (
        f"--b\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n--b--\r\n"
    )
    return body, {"Content-Type": "multipart/form-data; boundary=b"}


def damaged(good: bytes, chosen: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(20):
        data[chosen.randrange(len(data))] = chosen.randrange(256)
    return bytes(data)


#: {name: (port, a good image, random numbers) -> status}
UPLOADS: dict[str, Any] = {
    "truncated": lambda port, good, r: post(port, good[: r.randrange(len(good))])[0],
    "damaged": lambda port, good, r: post(port, damaged(good, r))[0],
    "bomb": lambda port, good, r: post(port, bomb())[0],
    "noise": lambda port, good, r: post(port, r.randbytes(5000))[0],
    "empty": lambda port, good, r: post(port, b"")[0],
    "json": lambda port, good, r: post(port, b"[" * 9999, {"Content-Type": "application/json"})[0],
    "too large": lambda port, good, r: post(port, bytes(40 * 2**20))[0],
    "no disposition": lambda port, good, r: post(port, *form(good, "none"))[0],
    "strange name": lambda port, good, r: post(
        port, *form(good[:-9], 'form-data; name="a"; filename="../../\x01\u202e.jpg"')
    )[0],
    "charset": lambda port, good, r: post(
        port,
        form(good, 'form-data; name="a"; filename="\\ud800.jpg"')[0],
        {"Content-Type": "multipart/form-data; boundary=b; charset=unicode_escape"},
    )[0],
    "open form": lambda port, good, r: post(
        port, good, {"Content-Type": "multipart/form-data; boundary=b"}
    )[0],
    "wrong score": lambda port, good, r: raw(
        port, head(9).replace(b"/predict", b"/predict?score=1e999&classes=%ff%00") + bytes(9)
    ),
    "no HTTP": lambda port, good, r: raw(port, r.randbytes(200) + b"\r\n\r\n"),
    "lying length": lambda port, good, r: raw(port, head(len(good) + 9) + good, answer=False),
    "cut body": lambda port, good, r: raw(port, head(len(good)) + good[:999], answer=False),
    "gone": lambda port, good, r: raw(port, head(len(good)) + good, answer=False),
    "slow": lambda port, good, r: raw(port, head(len(good)) + good[:9], wait=0.5, answer=False),
    "chunks": lambda port, good, r: raw(
        port, head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\nab"
    ),
}


# --------------------------------------------------------------------------------------- stop


def stop_under_load(served: Process, files: list[bytes], clients: int) -> dict[str, Any]:
    """SIGTERM while ``clients`` images wait; all of them were accepted."""
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda data=data: answers.append(post(served.port, data)[0]))
        for data in files[:clients]
    ]
    for thread in threads:
        thread.start()
    enough = min(clients, len(files)) // 2
    while served.metric("resdet_queue_images") < enough and any(
        map(threading.Thread.is_alive, threads)
    ):
        time.sleep(0.01)
    time.sleep(0.5)
    waiting = int(served.metric("resdet_queue_images"))
    served.child.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    code = served.child.wait(60)
    if code != 0 or set(answers) != {200} or len(answers) != len(threads):
        raise SystemExit(f"stopped with {code}, answers {answers}")
    return {"waiting": waiting, "answered": len(answers), "exit_code": code}


def print_report(report: dict[str, Any]) -> None:
    for name, rates in report["throughput"]["images_per_s"].items():
        print(f"{name}: {', '.join(f'{rate:.2f}' for rate in rates)} images/s")
    for name, what in (("share", "server of predictor"), ("cpu_share", "by time on all cores")):
        print(f"{what}: {', '.join(f'{100 * each:.0f} %' for each in report['throughput'][name])}")
    hostile = report["hostile"]
    print(f"hostile uploads by answer (0: none read): {hostile['answers']}")
    for when in ("before", "after"):
        print(f"  {when}: " + ", ".join(f"{v:.0f} {k}" for k, v in hostile[when].items()))
    stop = report["stop"]
    print(f"stop: {stop['waiting']} waiting, {stop['answered']} answered, exit {stop['exit_code']}")


if __name__ == "__main__":
    main()
