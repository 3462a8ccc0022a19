"""Memory, threads and open files of ``resdet serve`` under an hour of load and hostile uploads.

    python benchmarks/serving_memory.py [--seconds 3600] [--rate 10] [--uploads 500]

Eight clients send images of different sizes alone and in forms, and ask for the page, the model and
the metrics; the hostile uploads of ``serving.py`` are spread over the time. Each good request must
be answered, and no upload with 500.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from measuring import make_parser, write_json
from serving import UPLOADS, Process, at_rest, form, get, jpeg, post, write_weights

CLIENTS = 8
#: Samples of the state, and the parts of the time of which the report has the means.
SAMPLES, PARTS = 240, 6
PATHS = ("/", "/model", "/metrics", "/readyz", "/openapi.json", "/nowhere")


def main() -> None:
    parser = make_parser(
        __doc__, depth=18, width=16, side=96, seconds=3600, rate=10, uploads=500, images=40
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name) / "best.pt"
        write_weights(weights, args)
        numbers = np.random.default_rng(0)
        sides = numbers.integers(args.side // 2, 2 * args.side, args.images)
        files = [jpeg(numbers, int(side)) for side in sides]
        with Process(weights) as served:
            report = Load(served, files, args).run()
    print_report(report)
    write_json(report, args)


class Load:
    """At most ``args.rate`` good requests a second from `CLIENTS` threads and ``args.uploads``
    hostile ones from another, for ``args.seconds``."""

    def __init__(self, served: Process, files: list[bytes], args: argparse.Namespace) -> None:
        self.served, self.files, self.args = served, files, args
        self.started = time.monotonic()
        self.numbers = itertools.count()
        self.answers: list[str] = []

    def run(self) -> dict[str, Any]:
        clients = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        threads = [*clients, threading.Thread(target=self._attacker)]
        for thread in threads:
            thread.start()
        samples = []
        for number in range(1, SAMPLES + 1):
            self._wait(number * self.args.seconds / SAMPLES)
            samples.append({"seconds": self.elapsed(), **self.served.state()})
        for thread in threads:
            thread.join()
        report = {
            "answers": (answers := dict(sorted(Counter(self.answers).items()))),
            "cores": self.served.cpu_seconds() / self.elapsed(),
            "samples": samples,
            "at_rest": at_rest(self.served),
        }
        if any(name.endswith((" 500", "False", "failed")) for name in answers):
            raise SystemExit(f"answers: {answers}")
        return report

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def _wait(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds - self.elapsed()))

    def _client(self) -> None:
        while True:
            number = next(self.numbers)
            self._wait(number / self.args.rate)
            if self.elapsed() > self.args.seconds:
                return
            self.answers.append(self._good(random.Random(number)))  # noqa: S311  no secret

    def _attacker(self) -> None:
        kinds = list(UPLOADS.values())
        for number in range(self.args.uploads):
            self._wait(number * self.args.seconds / self.args.uploads)
            send = kinds[number % len(kinds)]
            try:
                status = send(self.served.port, self.files[0], random.Random(number))  # noqa: S311
            except (OSError, ValueError):  # the connection was closed
                status = 0
            self.answers.append(f"hostile {status}")

    def _good(self, chosen: random.Random) -> str:
        port, content = self.served.port, chosen.choice(self.files)
        try:
            if chosen.random() < 0.1:
                return f"page {get(port, chosen.choice(PATHS)) != ''}"
            if chosen.random() < 0.2:
                return f"form {post(port, *form(content, FILE))[0]}"
            return f"image {post(port, content)[0]}"
        except (OSError, ValueError) as error:
            return f"{type(error).__name__} failed"


FILE = 'form-data; name="images"; filename="a.jpg"'


def print_report(report: dict[str, Any]) -> None:
    print(f"answers (hostile 0: none read): {report['answers']}, {report['cores']:.2f} cores")
    for part in np.array_split(np.array(report["samples"]), PARTS):
        print(
            f"until {part[-1]['seconds']:5.0f} s: "
            f"{statistics.mean(each['MB'] for each in part):.1f} MB "
            f"(at most {max(each['MB'] for each in part):.1f}), "
            f"at most {max(each['threads'] for each in part)} threads, "
            f"{max(each['files'] for each in part)} files, "
            f"{max(each['queue'] for each in part):.0f} in the queue"
        )
    print("at rest: " + ", ".join(f"{v:.1f} {k}" for k, v in report["at_rest"].items()))


if __name__ == "__main__":
    main()
