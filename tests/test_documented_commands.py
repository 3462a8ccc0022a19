"""Every command and Python snippet of the documents is run by a test, or stands here with a reason.

Here the commands run in their order in a folder that has what the documents name; the tests that
`ELSEWHERE` names run the others.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path

import pytest
from resdet.tests.test_docs import DOCUMENTS, ROOT, commands
from resdet.tools.cli import main

#: Commands that are not run here: what they begin with, and the test that runs them or the reason.
ELSEWHERE = {
    "doctor": "its exit code tells of the machine: tests/tools/test_doctor.py",
    "train-det --cfg mine.yaml train.lr": "a whole training: tests/tools/test_train_det.py",
    "train-det --resume": "tests/detection/engine/test_resuming.py",
    "train-det --cfg mine.yaml": "a whole training: tests/test_first_detector.py",
    "check-data mydata": "tests/test_first_detector.py",
    "train-cls": "a whole training: tests/tools/test_train_cls.py",
    "eval --weights best.pt test.protocol": "of a classifier: tests/tools/test_train_cls.py",
    "infer --weights best.pt photos/ --out found/ --sort": "tests/tools/test_infer_classes.py",
    "push": "needs the Hub: tests/detection/tasks/test_hub.py",
    "infer --weights hf:": "needs the Hub: tests/detection/tasks/test_hub.py",
    "freeze-bn": "tests/tools/test_freeze_bn.py",
    "networks": "builds every shipped network: tests/tools/test_networks.py",
    "curves": "tests/tools/test_curves.py",
    "responses": "tests/tools/test_responses.py",
    "write-shards": "tests/tools/test_write_shards.py",
    "split data/mine": "needs more images: tests/tools/test_split.py",
    "crop-objects": "tests/tools/test_crop_objects.py",
    "manifest": "needs an object store: tests/datasets/manifests/test_manifest.py",
    "infer --weights best.pt --manifest": "tests/detection/cluster/test_run.py",
    "infer --weights /models/best.pt --manifest": "tests/detection/cluster/test_ray.py",
    "eval --manifest": "tests/tools/test_eval_manifest.py",
    "eval --predictions found/detections.jsonl": "tests/tools/test_eval_results.py",
    "eval --predictions results/VOC2007": "tests/tools/test_eval_results.py",
    "eval --weights last.pt --cfg mine.yaml --split test": "tests/tools/test_eval_results.py",
    "export": "tests/detection/export/test_detector.py",
    "eval --weights exported": "tests/detection/export/test_detector.py",
    "infer --weights exported": "tests/detection/export/test_detector.py",
    "benchmark": "tests/detection/export/test_benchmarking.py",
    "ablate": "tests/tools/test_ablate.py",
    "infer --weights best.pt clip.mp4": "tests/detection/inference/test_video.py",
    "infer --weights best.pt 0": "needs a webcam",
    "infer --weights best.pt rtsp": "needs a camera",
    "train-loc": "a whole training: tests/tools/test_train_loc.py",
    "eval --weights best.pt --mean-box": "tests/tools/test_train_loc.py",
    "eval --weights best.pt 'test.classifiers": "tests/tools/test_train_loc.py",
    "eval --weights LAST": "tests/tools/test_train_loc.py",
    "score-submission": "tests/tools/test_train_loc.py",
    "infer --weights best.pt 'test.classifiers": "tests/tools/test_train_loc.py",
    "serve": "does not end: tests/tools/test_serve.py",
    "convert-weights": "downloads weights: tests/tools/test_convert_weights.py",
    "eval --weights r50.safetensors": "needs ImageNet",
}
#: Documents whose commands have a test of their own.
OWN_TEST = {"first_detector.md": "test_first_detector.py", "paper.md": "test_paper.py"}
#: Snippets that are not run here, by what is in them.
SNIPPETS_ELSEWHERE = {
    "resdet.train(": "a whole training: tests/tools/test_functions.py",
    'stream("clip.mp4", every': "tests/detection/inference/test_video.py",
    "import ray": "needs a cluster",
    "import SparkSession": "needs Spark: tests/detection/cluster/test_spark.py",
    "import fiftyone": "needs its database: tests/detection/adapters/test_fiftyone.py",
    "ByteTrackTracker": "needs trackers: tests/detection/inference/test_results.py",
    'load("run/weights/best.pt")': "the run of tests/test_first_detector.py",
}


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for named, block in found if named == language]


def written(path: Path) -> list[str]:
    """The commands in the blocks of a document, without ``resdet``."""
    lines = "\n".join(blocks(path, "")).replace("\\\n", " ").splitlines()
    found = [re.match(r" *resdet +([a-z][^#]*)", line) for line in lines]
    return [" ".join(match[1].split()) for match in found if match]


def snippets(path: Path) -> list[str]:
    return blocks(path, "python")


def elsewhere(command: str) -> str:
    """What `ELSEWHERE` says first about a command; "" without an entry."""
    return next((key for key in ELSEWHERE if command.startswith(key)), "")


@pytest.fixture(scope="module")
def world(
    tiny_run: Path, scenes: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with what the documents name: data, photos, a config, a run and evaluations."""
    folder = tmp_path_factory.mktemp("documents")
    for name in ("mydata", "data/VOC2007", "data/mine"):
        shutil.copytree(scenes, folder / name)
    photo = next((scenes / "JPEGImages").glob("*.jpg"))
    for name in ("street.jpg", "photos/a.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(photo, folder / name)
    data = [f"{part}: [{{format: voc, root: mydata, split: {part}}}]" for part in ("train", "val")]
    config = f"base: {tiny_config}\ndata: {{{', '.join(data)}}}\n"
    (folder / "mine.yaml").write_text(config, encoding="utf-8")
    run = folder / "runs" / "mine" / "<time>"
    shutil.copytree(tiny_run, run)
    made = folder / "made"
    words = ("--trust-paths", "--resamples", "0", "--save-json", "--out", str(made))
    assert main(["eval", "--weights", str(run / "weights" / "best.pt"), *words]) == 0
    for name in ("runs/a/eval", "runs/b/eval", "runs/mine/eval"):
        (folder / name).mkdir(parents=True)
        shutil.copy(made / "images.json", folder / name)
    results = next(made.rglob("detections.json"))
    for name in ("a.json", "b.json", "results.json"):
        shutil.copy(results, folder / name)
    shutil.copy(next(made.rglob("ground_truth.json")), folder / "instances_val2017.json")
    return folder


def test_commands_run(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    run = 0
    for path in DOCUMENTS:
        for command in written(path) if path.name not in OWN_TEST else ():
            if elsewhere(command):
                continue
            (words,) = commands(f"```\nresdet {command}\n```")
            words += ["--resamples", "9"] if words[0] in ("eval", "compare") else []
            words += ["--trust-paths"] if words[0] == "eval" and "--weights" in words else []
            assert main(words) == 0, f"{path.name}: resdet {command}"
            run += 1
    assert run >= 8


def test_snippets_run(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    run = 0
    for path in DOCUMENTS:
        for snippet in snippets(path) if path.name not in OWN_TEST else ():
            if not any(key in snippet for key in SNIPPETS_ELSEWHERE):
                # The run has other classes than the document.
                known = snippet.replace('classes=["cat"]', 'classes=["star"]')
                exec(compile(known, path.name, "exec"), {})  # noqa: S102
                run += 1
    assert run >= 2


def test_every_reason_is_needed_and_names_a_test_that_exists() -> None:
    every = [command for path in DOCUMENTS for command in written(path)]
    every = [command for command in every if command]
    assert {elsewhere(command) for command in every} >= set(ELSEWHERE)
    texts = "\n".join(snippet for path in DOCUMENTS for snippet in snippets(path))
    assert [key for key in SNIPPETS_ELSEWHERE if key not in texts] == []
    named = re.findall(
        r"tests/[\w/]+\.py", " ".join((*ELSEWHERE.values(), *SNIPPETS_ELSEWHERE.values()))
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
    for document, test in OWN_TEST.items():
        assert document in (ROOT / "tests" / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_lists_in_commands_are_quoted(path: Path) -> None:
    """zsh, the shell of macOS, takes ``key=[1,2]`` for a pattern of file names."""
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w'\".])[a-z_]+(?:\.\w+)+=\[[^\s`'\"\]]+\]", text) == []
