"""Fixtures of the whole suite: reference data that lives outside the project, a data set of drawn
scenes with a config that trains on it in seconds, and the command ``resdet``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

#: Before torch is imported: the networks of the tests are too small for more than one thread, and
#: commands in processes of their own run on one too, so that results can be compared bit for bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: A property takes as long as the machine is busy: no deadline for its examples.
settings.register_profile("resdet", deadline=None)
settings.load_profile("resdet")

#: Commands under test get the signals of a shell's foreground, even where the suite was started by
#: ``nohup`` or with ``&``, whose ignored signals they would inherit.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        usual = signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        signal.signal(_number, usual)

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("RESDET_SHARED", ROOT.parent / "shared"))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"reference data not found: {path} (set RESDET_SHARED)")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images with annotations: bccd, cards, messy_images."""
    return _folder(SHARED / "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers computed by detectron2 for a narrow R50-C4."""
    return _folder(SHARED / "golden")


#: Trains in about two seconds on one core; batch norm, as in the quick start.
TINY_CONFIG = """
data:
  train:
    - {format: voc, root: scenes, split: train}
  val:
    - {format: voc, root: scenes, split: val}
  classes: [circle, cross, ring, square, star, triangle]
  workers: 0
image: {short_side_train: [96], short_side_test: 96, long_side_max: 128}
backbone: {depth: 18, width: 8, norm: batch, frozen_stages: 0}
rpn:
  channels: 16
  anchor_sizes: [16, 32, 64]
  pre_nms_train: 200
  post_nms_train: 40
  pre_nms_test: 100
  post_nms_test: 50
  batch_per_image: 32
roi: {pool_size: 4, sampling_ratio: 1, batch_per_image: 16}
train:
  iterations: 8
  batch_size: 2
  base_batch_size: 2
  lr: 0.02
  warmup_iterations: 2
  log_every: 2
  eval_every: 4
  checkpoint_every: 1
  val_loss_batches: 1
"""


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC data set of 12 + 6 drawn images of 96x128 pixels."""
    from resdet.datasets.acquire.synthetic import make_scenes

    out = tmp_path_factory.mktemp("data") / "scenes"
    make_scenes(out, train=12, val=6, size=(96, 128))
    return out


@pytest.fixture(scope="session")
def tiny_config(scenes: Path) -> Path:
    """The config file beside the data set."""
    path = scenes.parent / "tiny.yaml"
    path.write_text(TINY_CONFIG)
    return path


@dataclass(frozen=True)
class Finished:
    """``code`` is negative for a process that a signal ended."""

    code: int
    out: str
    err: str


class Running:
    """A command under way, the leader of its own process group."""

    def __init__(self, server: socket.socket, outputs: Sequence[Path]) -> None:
        self._answers, self._outputs = server.makefile(), outputs
        self.pid = int(self._answers.readline())

    @property
    def out(self) -> str:
        return self._outputs[0].read_text()

    @property
    def alive(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def until(self, ready: Callable[[], bool], seconds: float = 90) -> bool:
        """Waits until ``ready()``; false where the command ended before."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.alive:
                return ready()
            assert time.monotonic() < deadline, self.out
            time.sleep(0.002)
        return True

    def until_lines(self, number: int, path: Path) -> bool:
        """The same, until a file has so many lines."""
        return self.until(lambda: path.exists() and path.read_bytes().count(b"\n") >= number)

    def until_step_after(self, step: int, checkpoint: Path) -> bool:
        """The same for a training, until it has saved a later step than ``step``."""
        from resdet.detection.engine.checkpoint import load_checkpoint

        return self.until(
            lambda: checkpoint.exists() and load_checkpoint(checkpoint)["step"] > step
        )

    def kill(self) -> None:
        """SIGKILL, unless it has just ended by itself."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Finished:
        code = int(self._answers.readline())
        return Finished(code, *(path.read_text() for path in self._outputs))


class Command:
    """``resdet`` in a process of its own, with one thread, forked from a process that has imported
    it: `fork_server.py`. ``programs`` is a folder with a ``python`` and a ``resdet`` that do the
    same for who starts them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.programs = folder, folder / "programs"
        self.programs.mkdir()
        self._numbers = count()
        client = Path(__file__).with_name("fork_client.py").read_text()
        for name in ("python", "resdet"):
            (self.programs / name).write_text(f"#!{sys.executable} -IS\n{client}")
            (self.programs / name).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.programs / "socket"))
            listener.listen()
            number = listener.fileno()
            program = Path(__file__).with_name("fork_server.py")
            self._server = subprocess.Popen(
                [sys.executable, str(program), str(number)],
                stdin=subprocess.PIPE,
                pass_fds=[number],
                env=self.environment(),
            )

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PATH": path} | more

    def python(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        """``python WORDS...`` with more variables in its environment."""
        return subprocess.run(
            [str(self.programs / "python"), *map(str, words)],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def torchrun(self, *words: object) -> subprocess.CompletedProcess[str]:
        """A program under ``torchrun`` in two processes."""
        options = ("--nproc-per-node", "2", "--standalone", "--no-python")
        return self.python("-m", "torch.distributed.run", *options, *words)

    def start(
        self,
        *words: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        file_limit: int = 0,
        user: int = 0,
        program: str = "resdet",
        kill: tuple[int, str, str] | None = None,
    ) -> Running:
        """``file_limit``: the largest file in bytes, a full disk to whoever writes more; ``user``:
        run without root's rights; ``program``: or python; ``kill``: as
        `fork_server.count_operations` takes it."""
        number = next(self._numbers)
        outputs = [self._folder / f"{name}{number}" for name in ("stdout", "stderr")]
        job = {
            "program": str(self.programs / program),
            "words": [str(word) for word in words],
            "cwd": str(cwd or self._folder),
            "env": self.environment(**(env or {})),
            "file_limit": file_limit,
            "user": user,
            "kill": kill,
        }
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self.programs / "socket"))
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("w")) for path in outputs]
            nothing = stack.enter_context(Path(os.devnull).open())
            streams = [file.fileno() for file in (nothing, *files)]
            socket.send_fds(server, [b" "], streams)
        server.sendall((json.dumps(job) + "\n").encode())
        return Running(server, outputs)

    def __call__(self, *words: object, **options: object) -> Finished:
        return self.start(*words, **options).wait()  # type: ignore[arg-type]  # passed on as is

    def close(self) -> None:
        self._server.communicate()


@pytest.fixture(scope="session")
def resdet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Runs ``resdet WORDS...``: ``resdet("eval", "--weights", path).code``."""
    command = Command(tmp_path_factory.mktemp("command"))
    yield command
    command.close()


@pytest.fixture(scope="session")
def tiny_run(resdet: Command, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an undisturbed training of eight steps, batch norm, moving average."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    done = resdet("train-det", "--cfg", tiny_config, "--out", out, "train.ema_decay=0.9")
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="session")
def learned_run(
    resdet: Command, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of 40 steps with group norm, which finds a little: its mAP is not zero."""
    out = tmp_path_factory.mktemp("runs") / "learned"
    settings = (
        "train.iterations=40",
        "train.eval_every=20",
        "train.lr=0.05",
        "rpn.post_nms_test=100",
    )
    done = resdet("train-det", "--cfg", tiny_config, "--out", out, "backbone.norm=group", *settings)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's chromium without a window, driven by selenium, with its console kept."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Debian's chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as opened:
        yield opened


@pytest.fixture(scope="session")
def object_store() -> Iterator[Any]:
    """An S3 server of moto on a free port of this machine: see `tests/object_store.py`."""
    for name in ("moto.server", "s3fs", "pyarrow"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    from resdet.tests.object_store import ObjectStore

    with ObjectStore() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        yield store
