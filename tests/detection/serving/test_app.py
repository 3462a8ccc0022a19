"""The HTTP interface, asked over real connections: answers, refusals, batches, deaths."""

from __future__ import annotations

import json
import socket
import struct
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from resdet.detection.errors import ConfigError, DivergedError
from resdet.tests.detection.inference.conftest import CLASSES
from resdet.tests.detection.serving.conftest import png


def in_background(posts):
    """The futures of calls that run at the same time."""
    pool = ThreadPoolExecutor(len(posts))
    futures = [pool.submit(post) for post in posts]
    pool.shutdown(wait=False)
    return futures


# ------------------------------------------------------------------------------------ answers


def test_a_raw_image_has_the_record_of_infer(spots, predictor_of_spots, tmp_path):
    path = tmp_path / "spot.png"
    path.write_bytes(png())
    answer = spots.post("/predict?score=0.05&file=spot.png", content=png())
    wanted = predictor_of_spots(path, score_threshold=0.05).to_dict()
    assert answer.status_code == 200
    assert answer.json() == {**wanted, "file": "spot.png"}
    assert answer.json()["detections"][0]["label"] == CLASSES[0]


def test_curls_default_type_is_an_image_too(spots):
    kind = {"content-type": "application/x-www-form-urlencoded"}
    answer = spots.post("/predict?score=0", content=png(), headers=kind)
    assert len(answer.json()["detections"]) == 1


def test_a_form_has_a_record_for_each_image_in_its_order(spots):
    files = [
        ("images", ("red.png", png())),
        ("images", ("cut.png", png()[:-60])),
        ("images", ("blå.png", png(colour=(20, 20, 250)))),
    ]
    answer = spots.post("/predict", files=files, params={"score": 0.05})
    red, cut, blue = answer.json()["images"]
    assert answer.status_code == 200
    assert [red["detections"][0]["label"], blue["detections"][0]["label"]] == list(CLASSES)
    assert [each["file"] for each in (red, cut, blue)] == ["red.png", "cut.png", "blå.png"]
    assert "truncated" in cut["error"]


def test_score_and_classes_select(spots):
    share = 20 * 20 / (40 * 60)
    found = {
        query: len(spots.post(f"/predict?{query}", content=png()).json()["detections"])
        for query in (
            f"score={share - 0.05}",
            f"score={share + 0.05}",
            "score=0&classes=red spot",
            "score=0&classes=blå fläck",
            "score=0&classes=blå fläck&classes=red spot",
        )
    }
    assert list(found.values()) == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("score=2", "score: Input should be less than or equal to 1"),
        ("score=nan", "score: "),
        ("score=high", "score: "),
        ("classes=red spots", "class red spots: the model does not know it; did you mean red"),
    ],
)
def test_a_wrong_parameter_is_told(spots, query, reason):
    answer = spots.post(f"/predict?{query}", content=png())
    assert answer.status_code == 422
    assert reason in answer.json()["error"]


# ------------------------------------------------------------------------------- bad requests


def huge_png() -> bytes:
    """The header of 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + png()[33:]
    )


@pytest.mark.parametrize(
    ("content", "kind", "status", "reason"),
    [
        (png()[:-60], "image/png", 422, "truncated"),
        (b"<html>404</html>", "image/jpeg", 422, 'not an image: starts with "<html"'),
        (b"%!PS-Adobe", "", 422, "EPS is not accepted"),
        (b"", "image/png", 400, "no image"),
        (b'{"url": "http://a/b.png"}', "application/json", 415, "send the bytes of an image"),
        (png(), "multipart/form-data", 400, "boundary"),
        (b"--a\r\nno header\r\n", "multipart/form-data; boundary=a", 400, "cannot be read"),
        (b"--a--\r\n", "multipart/form-data; boundary=a", 400, "no image"),
        (png((4, 300)), "image/png", 422, "side under 16 px"),
        (huge_png(), "image/png", 413, "over 50000000 pixels"),
        (bytes(150_000), "image/png", 413, "over 100000 bytes"),
    ],
)
def test_a_bad_body_is_refused_with_the_reason(spots, content, kind, status, reason):
    answer = spots.post("/predict", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert reason in answer.json()["error"]
    assert "bytes:" not in answer.json()["error"]


def test_a_body_without_length_is_counted(spots):
    answer = spots.post("/predict", content=(bytes(10_000) for _ in range(15)))
    assert (answer.status_code, answer.json()) == (413, {"error": "the body is over 100000 bytes"})


def test_a_form_of_bad_images_alone_is_refused(spots):
    answer = spots.post("/predict", files={"a": ("a.png", b"no"), "b": ("b.png", b"neither")})
    assert answer.status_code == 422
    assert [each["file"] for each in answer.json()["images"]] == ["a.png", "b.png"]


def test_a_large_form_makes_no_temporary_file(serve, predictor_of_spots, monkeypatch):
    """Beyond a megabyte its parser would otherwise write one."""
    made = []
    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, lambda *words, name=name, **more: made.append(name))
    served = serve(predictor_of_spots)
    content = png() + bytes(3 * 2**20)
    answer = served.post("/predict?score=0.05", files={"images": ("a.png", content, "image/png")})
    assert answer.status_code == 200 and answer.json()["images"][0]["detections"]
    assert made == []


def test_more_images_than_allowed(spots):
    files = [("images", (f"{number}.png", b"x")) for number in range(33)]
    answer = spots.post("/predict", files=files)
    assert answer.status_code == 400
    assert "Maximum number of files is 32" in answer.json()["error"]


def test_a_slow_body_ends(spots):
    with socket.create_connection(("127.0.0.1", spots.port)) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: [::]\r\nContent-Length: 1000\r\n\r\nabc")
        answer = client.recv(1000)
    assert b"408" in answer.splitlines()[0]


def test_unknown_paths_and_methods(spots):
    assert spots.get("/secret").json() == {"error": "Not Found"}
    assert spots.get("/docs").status_code == 404
    assert spots.get("/predict").json() == {"error": "Method Not Allowed"}


# ------------------------------------------------------------------------------- descriptions


def test_the_model_says_what_it_is(spots):
    found = spots.get("/model").json()
    assert found["classes"] == list(CLASSES)
    assert (found["results"], found["score_threshold"], found["device"]) == (
        "detections",
        0.5,
        "cpu",
    )


def test_openapi_describes_bodies_and_answers(spots):
    found = spots.get("/openapi.json").json()
    post = found["paths"]["/predict"]["post"]
    assert set(post["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert {"200", "413", "422", "503"} <= set(post["responses"])
    assert {each["name"] for each in post["parameters"]} == {"score", "classes", "file"}
    assert "ImageAnswer" in found["components"]["schemas"]


def test_metrics_count_requests_and_images(serve, predictor_of_spots):
    served = serve(predictor_of_spots)
    served.post("/predict", content=png())
    served.post("/predict", content=b"no image")
    served.get("/wp-admin")
    text = served.get("/metrics").text
    assert 'resdet_requests_total{path="/predict",status="200"} 1.0' in text
    assert 'resdet_requests_total{path="/predict",status="422"} 1.0' in text
    assert 'resdet_requests_total{path="other",status="404"} 1.0' in text
    assert 'resdet_images_total{outcome="bad"} 1.0' in text
    assert "resdet_model_seconds_count 1.0" in text
    assert "resdet_queue_images 0.0" in text


def test_answers_forbid_what_a_browser_could_do_with_them(spots):
    headers = spots.get("/model").headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_a_token_is_required_where_one_is_set(serve, predictor_of_spots):
    served = serve(predictor_of_spots, token="s3cret")  # noqa: S106
    assert served.get("/healthz").status_code == served.get("/readyz").status_code == 200
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}):
        for path in ("/model", "/metrics", "/openapi.json"):
            answer = served.get(path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert served.post("/predict", content=png(), headers=headers).status_code == 401
    right = {"authorization": "Bearer s3cret"}
    assert served.post("/predict", content=png(), headers=right).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("192.168.0.7:8000", 200), ("[::1]:8000", 200), ("localhost:80", 200),
        ("Cameras.example", 200), ("evil.example", 421), ("evil.example:8000", 421),
        ("127.0.0.1.evil.example", 421), ("localhost.evil.example", 421), ("[", 421),
    ],
)  # fmt: skip
def test_other_names_of_the_server_are_refused(host, status, named):
    """A page of another site that points its own name here is of the same origin as the server."""
    for path in ("/model", "/", "/healthz"):
        assert named.get(path, headers={"host": host}).status_code == status
    answer = named.post("/predict", content=png(), headers={"host": host})
    assert answer.status_code == status and ("--allow-host" in answer.text) == (status == 421)


def test_any_name_of_the_server(serve, predictor_of_spots):
    """With ``*``, or with a token, which a page of another site does not have."""
    served = serve(predictor_of_spots, hosts=("*",))
    assert served.get("/model", headers={"host": "any.example"}).status_code == 200
    served, headers = serve(predictor_of_spots, token="t"), {"host": "any.example"}  # noqa: S106
    assert served.get("/model", headers=headers).status_code == 401
    assert served.get("/model", headers=headers | {"authorization": "Bearer t"}).is_success


def test_wrong_options():
    from resdet.detection.serving.options import ServeOptions

    for wrong in ({"queue": 0}, {"seconds": float("nan")}, {"token": ""}, {"token": "ä"}):
        with pytest.raises(ConfigError):
            ServeOptions(**wrong)


# -------------------------------------------------------------------------- the model's thread


def test_a_full_queue_refuses_until_there_is_room(held):
    served, model = held(queue=2)
    first = in_background([lambda: served.post("/predict", content=png())])
    assert model.called.wait(10)
    first += in_background([lambda: served.post("/predict", content=png())])
    served.wait_until(lambda: served.server.queue.pending == 2)
    refused = served.post("/predict", content=png())
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json() == {"error": "busy: 2 images wait"}
    model.go.set()
    assert [each.result(20).status_code for each in first] == [200, 200]
    assert served.post("/predict", content=png()).status_code == 200


def test_images_of_one_network_size_share_a_batch(held):
    served, model = held(batch_size=4)
    wide, tall = png((40, 60)), png((60, 40))
    answers = in_background([lambda: served.post("/predict", content=wide)])
    assert model.called.wait(10)
    for number, content in enumerate([wide, tall, wide, tall, wide], start=2):
        answers += in_background([lambda c=content: served.post("/predict", content=c)])
        served.wait_until(lambda n=number: served.server.queue.pending == n)
    served.wait_until(lambda: len(served.server.queue._ready) == 5)
    model.go.set()
    found = [each.result(20).json() for each in answers]
    assert [each["width"] for each in found] == [60, 60, 40, 60, 40, 60]
    assert [shape[0] for shape in model.shapes] == [1, 3, 2]
    assert model.shapes[1][3] > model.shapes[1][2]


def test_images_whose_client_has_gone_are_dropped(held):
    served, model = held()
    first = in_background([lambda: served.post("/predict", content=png())])
    assert model.called.wait(10)
    body = png((60, 40))
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: [::]\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        served.wait_until(lambda: served.server.queue.pending == 2)
    served.wait_until(lambda: served.server.queue.pending == 1)
    model.go.set()
    assert first[0].result(20).status_code == 200
    assert served.post("/predict", content=png()).status_code == 200
    assert len(model.shapes) == 2
    assert served.server.bodies.held == 0
    assert 'resdet_images_total{outcome="gone"} 1.0' in served.get("/metrics").text


def test_a_queue_ends_whose_last_image_nobody_waits_for(predictor_of_spots, extra):
    from resdet.detection.serving.metrics import Metrics
    from resdet.detection.serving.model_queue import ModelQueue, QueuedImage
    from resdet.detection.serving.options import ServeOptions

    queue = ModelQueue(predictor_of_spots, ServeOptions(decoders=1), Metrics())
    image = QueuedImage("a.png", png(), torch.zeros(2))
    queue.submit([image])
    image.future.cancel()
    decoder, model = queue._threads
    queue._closing = True
    model.start()
    time.sleep(0.1)  # it waits for the image
    decoder.start()
    for thread in (decoder, model):
        thread.join(10)
        assert not thread.is_alive()


def test_the_bytes_of_images_whose_client_has_gone_are_given_back(held):
    served, model = held(queue=4, batch_size=1)
    first = in_background([lambda: served.post("/predict", content=png())])
    assert model.called.wait(10)
    queue, body = served.server.queue, png((60, 40))
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(
                b"POST /predict HTTP/1.1\r\nHost: [::]\r\nContent-Length: %d\r\n\r\n" % len(body)
                + body
            )
            served.wait_until(lambda: queue.pending == 2)
        served.wait_until(lambda: queue.pending == 1)
    assert not queue._waiting
    model.go.set()
    assert first[0].result(20).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up(held):
    served, _ = held(seconds=1)
    answer = served.post("/predict", content=png())
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("error", [RuntimeError("device lost"), KeyboardInterrupt()])
def test_a_dead_model_thread_is_told_and_ends_the_server(held, error, capsys):
    served, model = held()
    died = threading.Event()
    end, served.server.queue.on_death = served.server.queue.on_death, died.set
    assert served.get("/readyz").json() == {"status": "ready"}
    model.error = error
    first = in_background([lambda: served.post("/predict", content=png()) for _ in range(3)])
    served.wait_until(lambda: served.server.queue.pending == 3)
    model.go.set()
    answers = [each.result(20) for each in first]
    assert died.wait(10)
    assert [each.status_code for each in answers] == [503] * 3
    assert "the model has stopped" in answers[0].json()["error"]
    assert served.get("/readyz").status_code == 503
    assert served.get("/healthz").status_code == 200
    assert served.post("/predict", content=png()).status_code == 503
    end()
    served.thread.join(10)
    assert not served.thread.is_alive()
    assert type(error).__name__ in capsys.readouterr().err


def test_an_image_that_fails_in_a_batch_fails_alone(held):
    served, model = held(batch_size=2)
    plain = model.predict

    def fail_for_blue(batch):
        model.called.set()
        assert model.go.wait(10)
        if any(image[2].float().max() > 200 for image in batch.images):
            raise DivergedError("the outputs are not finite")
        return plain(batch)

    model.predict = fail_for_blue
    blue = png(colour=(20, 20, 250))
    answers = in_background([lambda: served.post("/predict", content=png())])
    assert model.called.wait(10)
    answers += in_background(
        [lambda c=content: served.post("/predict", content=c) for content in (png(), blue)]
    )
    served.wait_until(lambda: len(served.server.queue._ready) == 2)
    model.go.set()
    found = [each.result(20) for each in answers]
    assert [each.status_code for each in found] == [200, 200, 422]
    assert json.loads(found[2].content)["error"] == "the outputs are not finite"


def test_a_stop_finishes_what_is_accepted(held):
    served, model = held(batch_size=2)
    answers = in_background([lambda: served.post("/predict", content=png()) for _ in range(8)])
    served.wait_until(lambda: served.server.queue.pending == 8)
    served.web.should_exit = True
    threading.Timer(0.3, model.go.set).start()
    assert [each.result(20).status_code for each in answers] == [200] * 8
    served.thread.join(10)
    assert not served.thread.is_alive()
    assert not any(thread.is_alive() for thread in served.server.queue._threads)
