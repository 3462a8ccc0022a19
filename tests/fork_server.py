"""A Python that has imported everything and forks for each program it is asked to run: a process of
its own, without the seconds of importing.

    python tests/fork_server.py SOCKET     the descriptor of a listening Unix socket

A client sends three descriptors, to be the streams 0, 1 and 2, and a line of JSON; it receives the
process id and, at the end, the exit code, which is negative for a process that a signal ended. If
the client goes away first, the process is killed. `fork_client.py` stands for ``python``.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from types import ModuleType
from typing import Any, NoReturn

#: What programs import late: each would spend these seconds again.
LATE = ("matplotlib.pyplot", "torch._dynamo", "torch.distributed.run", "torchvision")
PACKAGES = ("backbones", "datasets", "detection", "tools")


def import_all() -> None:
    """All modules of the toolkit whose libraries are installed, and what is imported late."""
    for name in LATE:
        import_module(name)
    for package in PACKAGES:
        found = import_module(f"resdet.{package}")
        for module in pkgutil.walk_packages(found.__path__, f"{found.__name__}."):
            try:
                import_module(module.name)
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("resdet"):
                    raise


class ForkServer:
    def __init__(self, listener: socket.socket) -> None:
        self._selector = DefaultSelector()
        self._clients: dict[int, socket.socket] = {}
        reader, self._ended = socket.socketpair()
        reader.setblocking(False)
        self._ended.setblocking(False)
        signal.set_wakeup_fd(self._ended.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector.register(listener, EVENT_READ, self._accept)
        self._selector.register(reader, EVENT_READ, self._reap)
        self._selector.register(sys.stdin, EVENT_READ, lambda stdin: sys.exit())

    def run(self) -> None:
        """Until the end of stdin, which ends the programs too."""
        try:
            while True:
                for key, _ in self._selector.select():
                    key.data(key.fileobj)
        finally:
            for pid in self._clients:
                os.kill(pid, signal.SIGKILL)

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        _, streams, _, _ = socket.recv_fds(client, 1, 3)
        with client.makefile() as lines:
            job = json.loads(lines.readline())
        if (pid := os.fork()) == 0:
            for other in (client, listener, *self._clients.values()):
                other.close()
            self._become(job, streams)
        for number in streams:
            os.close(number)
        self._clients[pid] = client
        self._selector.register(client, EVENT_READ, lambda client: self._kill(pid))
        _send(client, pid)

    def _kill(self, pid: int) -> None:
        self._selector.unregister(self._clients[pid])
        os.kill(pid, signal.SIGKILL)

    def _reap(self, reader: socket.socket) -> None:
        reader.recv(1024)
        while self._clients:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._clients.pop(pid) as client:
                if client.fileno() in self._selector.get_map():
                    self._selector.unregister(client)
                _send(client, os.waitstatus_to_exitcode(status))

    def _become(self, job: dict[str, Any], streams: Sequence[int]) -> NoReturn:
        """Runs the job in this process, the leader of its own group."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        self._selector.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _open_streams()
        code = 1
        try:
            os.chdir(job["cwd"])
            os.environ.clear()
            os.environ.update(job["env"])
            _limit(job["file_limit"], job["user"])
            if job.get("kill"):  # not of `fork_client.py`
                count_operations(*job["kill"])
            code = _exit_code(Path(job["program"]), job["words"])
        except BaseException:
            traceback.print_exc()
        try:  # as at the end of Python, without taking thousands of modules apart
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            code = code or 120
        os._exit(code & 0xFF)


def _send(client: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # the client may have been killed
        client.sendall(f"{number}\n".encode())


def _open_streams() -> None:
    """As at the start of Python: the server's own may be of another kind, such as without seek."""
    text = partial(open, encoding="utf-8", closefd=False)
    sys.stdin = sys.__stdin__ = text(0)
    sys.stdout = sys.__stdout__ = text(1, "w")
    sys.stderr = sys.__stderr__ = text(2, "w", buffering=1, errors="backslashreplace")


def _limit(file_size: int, user: int) -> None:
    if file_size:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if user:
        os.setgid(user)
        os.setuid(user)


#: Audit events of operations that change a folder.
_CHANGES = frozenset(
    f"os.{name}" for name in ("mkdir", "rename", "remove", "rmdir", "truncate", "link", "symlink")
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def count_operations(last: int, folder: str, told: str) -> None:
    """Count the operations of this process, but not of those it forks, that change files below
    ``folder``; kill it before number ``last``, or write the number of all to the file ``told``."""
    process, count = os.getpid(), 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == last:
            os.kill(process, signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in _CHANGES or (event == "open" and arguments[2] & _WRITING)
        if not changes or os.getpid() != process:
            return
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike):
            name = os.fsdecode(path)  # a relative one is that of a folder being removed
            if name.startswith(folder) or not Path(name).is_absolute():
                step()

    def fsync(descriptor: int, real: Any = os.fsync) -> None:
        if os.getpid() == process:
            step()
        real(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)
    atexit.register(lambda: Path(told).write_text(str(count)))


def _exit_code(program: Path, words: Sequence[str]) -> int:
    try:
        if program.name == "python":
            sys.executable = str(program)
            _run_python(list(words))
            return 0
        from resdet.tools.cli import main

        sys.argv = ["resdet", *words]
        return main(list(words))
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1


def _run_python(words: list[str]) -> None:
    """``-c CODE``, ``-m MODULE`` or a script, and its words."""
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(words[1], main.__dict__)  # noqa: S102  what ``python -c`` is for
    elif words[0] == "-m":
        sys.argv = words[1:]
        sys.modules.pop(words[1], None)  # which was imported without running
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    given = socket.socket(fileno=int(sys.argv[1]))
    import_all()
    gc.collect()
    gc.freeze()  # else each process copies the memory of all objects at its first collection
    ForkServer(given).run()
