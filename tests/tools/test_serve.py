"""The serve command: a real process that answers, and ends on a signal."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from threading import Thread

import pytest
from resdet.detection.errors import ConfigError, ResdetError
from resdet.detection.extras import EXTRAS
from resdet.tools import serve
from resdet.tools.cli import main


def need_extra():
    for name in EXTRAS["serve"]:
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[serve]'")
    return pytest.importorskip("httpx", reason="asks the server: pip install httpx")


def test_the_process_answers_as_infer_and_ends_with_0(resdet, tiny_run, scenes, tmp_path):
    httpx = need_extra()
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    weights = tiny_run / "weights" / "best.pt"
    words = ("--weights", weights, "--port", 0, "--conf", 0.01, "--token-file", token)
    running = resdet.start("serve", *words, "test.max_detections=3", "--device", "cpu")
    for _ in range(1500):
        if address := re.search(r"listening on (http://\S+),", running.out):
            break
        time.sleep(0.02)
    assert address, running.out
    image = next(iter(sorted((scenes / "JPEGImages").iterdir())))
    headers = {"authorization": "Bearer s3cret"}
    with httpx.Client(base_url=address[1], headers=headers, trust_env=False, timeout=30) as client:
        answer = client.post("/predict?file=a.jpg", content=image.read_bytes())
        assert client.get("/model").json()["weights"] == ["best.pt"]
    os.kill(running.pid, signal.SIGTERM)
    done = running.wait()
    assert (done.code, done.err) == (0, "")

    from resdet.detection.predictor import load

    wanted = load(weights, "cpu", ["test.max_detections=3"])(image, score_threshold=0.01)
    assert answer.json() == {**wanted.to_dict(), "file": "a.jpg"}
    assert answer.json()["detections"]


def test_who_reads_the_address_can_connect(monkeypatch):
    need_extra()
    from resdet.detection.inference.predictor import Predictor
    from resdet.detection.serving import run
    from resdet.detection.serving.options import ServeOptions
    from resdet.tests.detection.inference.conftest import CLASSES, SpotFinder

    bound, connected = run.bind("127.0.0.1", 0), []

    def say(line):
        connected.append(socket.create_connection(bound.getsockname(), timeout=5))
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run, "say", say)
    with pytest.raises(KeyboardInterrupt):
        run.serve(Predictor(SpotFinder(), classes=CLASSES), ServeOptions(), bound)
    (client,) = connected
    client.close()
    bound.close()


def test_a_model_that_dies_ends_the_command_with_1(monkeypatch):
    httpx = need_extra()
    from resdet.detection.inference.predictor import Predictor
    from resdet.detection.serving import run
    from resdet.detection.serving.options import ServeOptions
    from resdet.tests.detection.inference.conftest import CLASSES, SpotFinder
    from resdet.tests.detection.serving.conftest import png

    class Dying(SpotFinder):
        def predict(self, batch):
            raise RuntimeError("device lost")

    bound = run.bind("127.0.0.1", 0)
    host, port = bound.getsockname()
    options = {"content": png(), "timeout": 30, "trust_env": False}
    asking = Thread(target=httpx.post, args=(f"http://{host}:{port}/predict",), kwargs=options)
    monkeypatch.setattr(run, "say", lambda line: asking.start())
    with pytest.raises(ResdetError, match=r"the model stopped: .*device lost") as stopped:
        run.serve(Predictor(Dying(), classes=CLASSES), ServeOptions(), bound)
    assert stopped.value.exit_code == 1
    asking.join(10)
    bound.close()


def test_a_missing_package_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(EXTRAS, "serve", ("no_such_package",))
    assert main(["serve", "--weights", "best.pt"]) == 2
    assert "pip install 'resdet[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["street.jpg"], "street.jpg: expected key=value; images are sent to the server"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid --port 8000: "),
        (["--port", "70000"], "--port 70000: "),
        (["--queue", "0"], "queue 0: expected at least 1"),
        (["--token-file", "missing"], "--token-file missing: cannot be read"),
    ],
)
def test_wrong_options_are_told_before_the_model_is_loaded(words, reason, capsys, tmp_path):
    need_extra()
    assert main(["serve", "--weights", str(tmp_path / "missing.pt"), *words]) == 2
    assert reason in capsys.readouterr().err


def test_a_setting_of_evaluations_is_no_option(resdet, tiny_run):
    need_extra()
    weights = tiny_run / "weights" / "best.pt"
    done = resdet("serve", "--weights", weights, "--port", 0, "test.batch_size=4")
    assert (done.code, done.out) == (2, "")
    assert "override test.batch_size=4: is of evaluations; here it is --batch-size" in done.err


def test_a_port_in_use(capsys, tmp_path):
    need_extra()
    from resdet.detection.serving.run import bind

    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        words = ["--weights", str(tmp_path / "missing.pt"), "--port", str(port)]
        assert main(["serve", *words]) == 2
    assert f"--port {port}: Address already in use" in capsys.readouterr().err


def test_the_token_is_read_from_a_file_or_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(serve.TOKEN, raising=False)
    assert serve._token(None) is None
    monkeypatch.setenv(serve.TOKEN, "from the environment")
    assert serve._token(None) == "from the environment"
    (tmp_path / "token").write_text("from a file\n")
    assert serve._token(tmp_path / "token") == "from a file"
    with pytest.raises(ConfigError, match="--token-file"):
        serve._token(tmp_path)


def test_local_addresses():
    need_extra()
    from resdet.detection.serving.run import is_local

    assert all(map(is_local, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.1.2", "example.org")))  # noqa: S104
