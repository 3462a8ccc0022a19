"""Stands for ``python`` and ``resdet``: asks `tests/fork_server.py` for a process with the same
words, folder, environment and streams; passes signals on and ends as it does.

The folder of this program, `programs` in `tests/conftest.py`, also has the socket.
"""

import json
import os
import signal
import socket
import sys

here = os.getcwd()  # noqa: PTH109  pathlib takes as long to import as all this runs
job = {"program": sys.argv[0], "words": sys.argv[1:], "cwd": here, "env": dict(os.environ)}
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[0].rpartition("/")[0] + "/socket")
socket.send_fds(server, [b" "], [0, 1, 2])
server.sendall((json.dumps(job | {"file_limit": 0, "user": 0}) + "\n").encode())
answers = server.makefile()
pid = int(answers.readline())
forwarded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
for number in forwarded:
    signal.signal(number, lambda number, frame: os.kill(pid, number))
code = int(answers.readline())
if code < 0:
    if -code in forwarded:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
