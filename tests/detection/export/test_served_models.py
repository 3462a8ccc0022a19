"""Every kind of model answers over HTTP as it does in Python: checkpoints and exports."""

from __future__ import annotations

from pathlib import Path

import pytest
from resdet.detection.extras import EXTRAS
from resdet.detection.predictor import load
from resdet.tests.detection.serving.conftest import png, serving


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
@pytest.mark.parametrize("task", ["detection", "classification", "localization"])
def test_answers_over_http(
    task: str, kind: str, learned_run: Path, exported: Path, files: dict[str, tuple[Path, Path]]
) -> None:
    for name in (*EXTRAS["serve"], "httpx"):
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[serve]' httpx")
    place = int(kind == "export")
    models = {name: pair[place] for name, pair in files.items()}
    models["detection"] = exported if place else learned_run / "weights" / "best.pt"
    chosen = f"test.classifiers=[{models['classification']}]"
    overrides = [chosen] if task == "localization" else []
    model = load(models[task], "cpu", overrides, score_threshold=0.0)
    data = [png(colour=colour) for colour in ((250, 20, 20), (20, 20, 250))]
    wanted = [{**model(each).to_dict(), "file": f"{n}.png"} for n, each in enumerate(data)]
    key = "classes" if task == "classification" else "detections"
    assert all(each[key] for each in wanted)
    with serving(model) as served:
        one = served.post("/predict?file=0.png", content=data[0])
        assert (one.status_code, one.json()) == (200, wanted[0])
        form = [("images", (f"{n}.png", each)) for n, each in enumerate(data)]
        assert served.post("/predict", files=form).json() == {"images": wanted}
        about = served.get("/model").json()
        assert (about["results"], about["classes"]) == (key, list(model.classes))
        assert about["weights"] == [models[task].name]
        assert served.get("/").status_code == 200 == served.get("/readyz").status_code
        assert served.post("/predict", content=b"x").status_code == 422
