"""A Label Studio asks: its requests over real connections, its images on a server of their own."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from resdet.detection.errors import ConfigError
from resdet.detection.inference import outputs
from resdet.detection.inference.predictor import Predictor
from resdet.detection.structures import Detections
from resdet.tests.detection.inference.conftest import CLASSES, SpotFinder
from resdet.tests.detection.serving.conftest import png

BOXES = """<View>
  <Image name="photo" value="$picture"/>
  <RectangleLabels name="spots" toName="photo">
    <Label value="red spot"/><Label value="Blue" predicted_values="none, blå fläck"/>
  </RectangleLabels>
</View>"""


class _Images(BaseHTTPRequestHandler):
    """Images, and personal access tokens, of a Label Studio."""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        self.server.given.append(given)
        if self.path == "/data/away.png":
            self._answer(302, b"", Location="http://127.0.0.1:9/data/red.png")
        elif given not in ("Token legacy", "Bearer short-lived"):
            self._answer(401, b"")
        elif self.path == "/data/large.png":
            self._answer(200, bytes(200_000))
        elif self.path == "/data/ended.png":
            self._answer(200, png()[:10], **{"Content-Length": "1000"})
            self.close_connection = True
        elif self.path == "/data/odd.png":
            self.wfile.write(b"nonsense\r\n\r\n")
        elif self.path == "/data/cut.png":
            self._answer(200, png()[:-60])
        elif self.path.startswith("/data/"):
            blue = "blue" in self.path
            self._answer(200, png(colour=(20, 20, 250) if blue else (250, 20, 20)))
        else:
            self._answer(404, b"")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answers = {"a.b.c": {"access": "short-lived"}, "n.o.t": []}
        known = self.path == "/api/token/refresh" and body["refresh"] in answers
        answer = answers[body["refresh"]] if known else {}
        self._answer(200 if known else 401, json.dumps(answer).encode())

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def studio():
    """The address of a Label Studio, and the keys that it was given."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Images) as server:
        server.given = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", server.given
        server.shutdown()
        thread.join()


@pytest.fixture
def ask(serve, studio, extra):
    """Ask a server with a key for the predictions of images, by their addresses."""
    from resdet.detection.serving.options import LabelStudio

    def start(key: str | None = "legacy", **options):
        predictor = Predictor(SpotFinder(), classes=CLASSES, score_threshold=0.05)
        linked = LabelStudio(studio[0], key)
        served = serve(predictor, label_studio=linked, max_bytes=100_000, **options)

        def predict(*addresses, config=BOXES, key="picture", **sent):
            tasks = [{"id": n, "data": {key: each}} for n, each in enumerate(addresses)]
            asked = {"tasks": tasks, "label_config": config}
            return served.post("/label-studio/predict", json=asked, **sent)

        predict.post, predict.get = served.post, served.get
        return predict

    return start


def test_each_task_has_its_boxes_in_per_cent(ask, studio):
    predict = ask()
    assert predict.get("/label-studio/health").json()["status"] == "UP"
    version = predict.post("/label-studio/setup", json={"schema": BOXES}).json()["model_version"]
    answer = predict("/data/red.png", f"{studio[0]}/data/blue.png?d=1")
    assert answer.status_code == 200
    (red,), (blue,) = answer.json()["results"]
    share = 20 * 20 / (40 * 60)
    assert red["model_version"] == answer.json()["model_version"] == version
    assert red["score"] == pytest.approx(share, abs=0.02)
    (box,) = red["result"]
    assert (box["type"], box["from_name"], box["to_name"]) == ("rectanglelabels", "spots", "photo")
    assert (box["original_width"], box["original_height"]) == (60, 40)
    assert box["value"]["rectanglelabels"] == ["red spot"]
    placed = [box["value"][side] for side in ("x", "y", "width", "height")]
    assert placed == pytest.approx([10 / 60 * 100, 5 / 40 * 100, 20 / 60 * 100, 50], abs=2)
    assert blue["result"][0]["value"]["rectanglelabels"] == ["Blue"]  # by predicted_values


@pytest.mark.parametrize(("output", "boxes"), [(outputs.LOCATED, 1), (outputs.BOXES, 2)])
def test_a_localizer_has_one_box_for_its_one_object(serve, studio, extra, output, boxes):
    from resdet.detection.serving.options import LabelStudio

    class Twice(SpotFinder):
        def predict(self, batch):
            return [Detections.cat([each, each]) for each in super().predict(batch)]

    predictor = Predictor(Twice(), classes=CLASSES, output=output, score_threshold=0.05)
    served = serve(predictor, label_studio=LabelStudio(studio[0], None), max_bytes=100_000)
    data = "data:image/png;base64," + base64.b64encode(png()).decode()
    asked = {"tasks": [{"id": 1, "data": {"picture": data}}], "label_config": BOXES}
    ((made,),) = served.post("/label-studio/predict", json=asked).json()["results"]
    assert len(made["result"]) == boxes


def test_an_image_in_the_task_itself(ask):
    data = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert len(ask(key=None)(data).json()["results"][0][0]["result"]) == 1


def test_names_with_spaces_and_letters_of_all_scripts(ask):
    answer = ask()("/data/local-files/?d=blå mapp/猫 1.png", "/data/a%20b.png")
    assert [len(each) for each in answer.json()["results"]] == [1, 1]


def test_classes_without_a_label_are_left_out_and_told(ask, capsys):
    config = BOXES.replace(' predicted_values="none, blå fläck"', "")
    assert ask().post("/label-studio/setup", json={"schema": config}).status_code == 200
    assert "not in Label Studio's interface, so left out: blå fläck" in capsys.readouterr().out
    ((blue,),) = ask()("/data/blue.png", config=config).json()["results"]
    assert blue["result"] == []


def test_more_tasks_than_the_queue_has_places(ask):
    answer = ask(queue=2)(*["/data/red.png", "/data/blue.png"] * 3)
    results = [each[0]["result"][0] for each in answer.json()["results"]]
    assert [each["value"]["rectanglelabels"][0] for each in results] == ["red spot", "Blue"] * 3


def test_a_task_that_fails_has_no_prediction_and_the_others_theirs(ask, capsys):
    answer = ask()("/data/red.png", "/data/cut.png", "/else", "/data/blue.png")
    assert answer.status_code == 200
    assert [len(each) for each in answer.json()["results"]] == [1, 0, 0, 1]
    told = capsys.readouterr().out
    assert "warning: task 1: truncated" in told
    assert "warning: task 2: /else: 404" in told


def test_a_personal_access_token_buys_short_lived_ones(ask, studio):
    studio[1].clear()
    assert ask(key="a.b.c")("/data/red.png", "/data/red.png").status_code == 200
    assert set(studio[1]) == {"Bearer short-lived"}


@pytest.mark.parametrize(
    ("address", "status", "reason"),
    [
        ("/data/away.png", 422, "302"),
        ("/else/red.png", 422, "404"),
        ("/data/ended.png", 422, "ended after 10 of 1000 bytes"),
        ("/data/odd.png", 422, "nonsense"),
        ("/data/large.png", 413, "over 100000 bytes"),
        ("/data/cut.png", 422, "task 0: truncated"),
        ("http://127.0.0.1:9/data/red.png", 422, "no others are opened"),
        ("//127.0.0.1:9/data/red.png", 422, "no others are opened"),
        ("http://127.0.0.1:x/", 422, "Port could not be cast"),
        ("file:///etc/passwd", 422, "no others are opened"),
        ("data:image/png;base64,%%", 422, "data:image/png;base64"),
        ("data:image/png,abc", 422, "expected data:image/…;base64"),
        ("", 422, "task 0: its data has no text 'picture'"),
    ],
)
def test_what_is_not_an_image_of_it_is_refused(ask, address, status, reason):
    answer = ask()(address)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(("key", "reason"), [("x.y.z", "401"), ("n.o.t", "no access token")])
def test_a_personal_access_token_that_buys_nothing(ask, key, reason):
    answer = ask(key=key)("/data/red.png")
    assert answer.status_code == 422
    assert reason in answer.json()["error"]


def test_a_key_that_is_missing_or_wrong(ask):
    answer = ask(key=None)("/data/red.png")
    assert answer.status_code == 422
    assert "401 Unauthorized: set LABEL_STUDIO_API_KEY" in answer.json()["error"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("<View/>", "no <RectangleLabels>"),
        ("<View", "labelling interface: unclosed token"),
        (BOXES.replace("$picture", "fixed.png"), "no <RectangleLabels>"),
        (BOXES.replace("red spot", "Red").replace("fläck", "f"), "no label of <RectangleLabels>"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>', "EntitiesForbidden"),
        (None, "has no labelling interface"),
    ],
)
def test_an_interface_that_does_not_fit(ask, config, reason):
    answer = ask().post("/label-studio/setup", json={"schema": config})
    assert answer.status_code == 422
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 50_000])
def test_what_is_not_a_request(ask, body):
    assert ask().post("/label-studio/predict", content=body).status_code == 400


def test_only_where_it_was_asked_for(spots):
    assert spots.get("/label-studio/health").status_code == 404
    assert spots.post("/predict", json={"tasks": []}).status_code == 415


def test_the_token_is_the_password_of_any_user(ask):
    predict = ask(token="secret")  # noqa: S106
    assert predict("/data/red.png").status_code == 401
    assert predict("/data/red.png", auth=("any", "wrong")).status_code == 401
    assert predict("/data/red.png", auth=("any", "secret")).status_code == 200


def test_a_classifier_chooses(extra):
    from resdet.detection.serving.label_studio import Interface

    xml = """<View><Image name="i" value="$image"/><Choices name="kind" toName="i">
        <Choice value="cat"/><Choice value="dog"/></Choices></View>"""
    interface = Interface.read(xml, ("cat", "cow"), boxes=False)
    record = {"width": 4, "height": 3, "classes": [{"label": "cow", "score": 0.7}]}
    assert interface.prediction(record) == {"result": [], "score": 0.0}
    record["classes"].append({"label": "cat", "score": 0.2})
    assert interface.prediction(record) == {
        "result": [
            {
                "type": "choices",
                "value": {"choices": ["cat"]},
                "score": 0.2,
                "from_name": "kind",
                "to_name": "i",
            }
        ],
        "score": 0.2,
    }


@pytest.mark.parametrize("address", ["localhost:8080", "ftp://a", "", "http://"])
def test_an_address_that_is_none(address):
    from resdet.detection.serving.options import LabelStudio

    with pytest.raises(ConfigError, match="expected the address of a Label Studio"):
        LabelStudio(address)
