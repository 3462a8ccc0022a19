"""A new task, in this one file and one line of `TASKS`, with every command that a task has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from resdet.datasets.catalog import DataSplit
from resdet.datasets.loading.dataset import DetectionDataset, eval_loader
from resdet.detection.config.base import Count, Precision, Section, TrainConfig
from resdet.detection.config.data_rules import image_rules
from resdet.detection.config.detector import DataConfig, ImageConfig
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.engine.distributed import Group
from resdet.detection.engine.plots import plot_labels
from resdet.detection.evaluation.report import Evaluation
from resdet.detection.structures import Annotation, Batch, Record
from resdet.detection.tasks.base import Loaded, Part, Splits, Task
from resdet.detection.tasks.detector import DETECTION
from resdet.detection.tasks.detector_network import eval_transform, train_transform
from resdet.detection.tasks.registry import TASKS
from resdet.tools.cli import main
from torch import Tensor, nn

# -- the file of the new task: how many objects of each class are in an image ----------------------


class CountTestConfig(Section):
    batch_size: Count = 2
    precision: Precision = "fp32"


class CountConfig(Section):
    task: Literal["counting"] = "counting"
    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    width: Count = 8
    train: TrainConfig = TrainConfig()
    test: CountTestConfig = CountTestConfig()


class Counter(nn.Module):
    """(N, 3, H, W) uint8 images to (N, K) counts."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 8, stride=8)
        self.count = nn.Linear(width, classes)

    def counts(self, batch: Batch) -> Tensor:
        return self.count(self.conv(batch.images / 255).relu().mean(dim=(2, 3)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        classes = self.count.out_features
        wanted = [one.labels.bincount(minlength=classes).float() for one in batch.annotations]
        return {"loss_count": (self.counts(batch) - torch.stack(wanted)).square().mean()}


class CountPipeline(nn.Module):
    """The mean count of several networks."""

    def __init__(self, members: Sequence[Counter]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Tensor]:
        return list(torch.stack([member.counts(batch) for member in self.members]).mean(dim=0))


@dataclass(frozen=True)
class CountError:
    name: str
    objects: int
    mean_error: float


@dataclass(frozen=True, eq=False)
class CountEvaluation(Evaluation):
    task = "counting"
    row_type = CountError
    definitions: ClassVar = {"mean_error": "mean of |predicted - true| over images and classes"}
    class_definitions: ClassVar = {"objects": "objects of the class"}
    headings: ClassVar = {"objects": "objects", "mean_error": "mean\nerror"}

    @staticmethod
    def rank(row: CountError) -> float:
        return -row.mean_error


class CountingTask(Task):
    name = "counting"
    noun = "a counter"
    command = "train-det"
    schema = CountConfig
    metric = "negative mean error"
    class_layers: ClassVar = {"count.": 1}
    network_settings: ClassVar = {}
    by_shape = True
    plot_labels = staticmethod(plot_labels)

    def build(self, config: CountConfig, classes: int) -> Counter:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            return Counter(config.width, classes)

    def read(
        self,
        config: CountConfig,
        part: Part,
        classes: tuple[str, ...] | None = None,
        *,
        training: bool = False,
    ) -> DataSplit:
        return DETECTION.read(config, part, classes, training=training)

    def train_dataset(self, config: CountConfig, split: DataSplit, prepared: None) -> Any:
        return DetectionDataset(split.records, train_transform(config), rules=image_rules(config))

    def eval_batches(
        self, pipeline: CountPipeline, config: CountConfig, split: DataSplit, group: Group
    ) -> Iterable[Batch]:
        dataset = DetectionDataset(split.records, eval_transform(config), rules=image_rules(config))
        return eval_loader(
            dataset,
            batch_size=config.test.batch_size,
            workers=config.data.workers,
            rank=group.rank,
            world=group.world,
        )

    def pipeline(self, members: Sequence[Loaded]) -> CountPipeline:
        return CountPipeline([member.model for member in members])

    def evaluate(
        self,
        found: Mapping[str, Tensor],
        split: DataSplit,
        config: CountConfig,
        *,
        quick: bool = False,
        **options: Any,
    ) -> CountEvaluation:
        classes = split.classes
        true = torch.stack(
            [one.annotation.labels.bincount(minlength=len(classes)) for one in split.records]
        )
        predicted = torch.stack([found[record.image_id] for record in split.records])
        errors, objects = (predicted - true).abs().mean(dim=0), true.sum(dim=0)
        rows = map(CountError, classes, objects.tolist(), errors.tolist())
        return CountEvaluation(len(true), {"mean_error": errors.mean().item()}, tuple(rows))

    def selection_metric(self, evaluation: CountEvaluation, config: CountConfig) -> float:
        return -evaluation.metrics["mean_error"]

    def describe(self, loaded: Loaded, splits: Splits) -> list[str]:
        return [f"counting {', '.join(loaded.classes)} in {len(splits['train'].records)} images"]

    def describe_testing(self, members: Sequence[Loaded], pipeline: CountPipeline) -> str:
        return f"{len(members)} network(s)"

    def facts(self, config: CountConfig) -> list[tuple[str, str]]:
        return [("counter", f"width {config.width}")]

    def data_report(self, config: CountConfig, splits: Splits, path: Path) -> str:
        return json.dumps({name: len(split.records) for name, split in splits.items()})


# -- its commands ----------------------------------------------------------------------------------

CONFIG = """
task: counting
data:
  train: [{format: voc, root: scenes, split: train}]
  val: [{format: voc, root: scenes, split: val}]
  workers: 0
image: {short_side_train: [96], short_side_test: 96, long_side_max: 128}
train:
  iterations: 8
  batch_size: 2
  base_batch_size: 2
  warmup_iterations: 2
  log_every: 2
  eval_every: 4
"""
CLASSES = ["circle", "cross", "ring", "square", "star", "triangle"]


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "counting", CountingTask())


@pytest.fixture
def config(scenes: Path) -> Path:
    path = scenes.parent / "counting.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def run(config: Path, tmp_path: Path) -> Path:
    ran("train-det", "--cfg", config, "--out", tmp_path / "run")
    return tmp_path / "run"


def ran(*words: object) -> None:
    """``resdet WORDS...`` in this process, where the new task is known."""
    assert main([*map(str, words), "--debug"]) == 0


def weights_of(run: Path) -> dict[str, Tensor]:
    return load_checkpoint(run / "weights" / "last.pt")["model"]


def test_the_error_by_hand() -> None:
    labels = torch.tensor([0, 0, 1])
    annotation = Annotation(torch.zeros(3, 4), labels, torch.zeros(3, dtype=torch.bool))
    records = (Record("a", Path("a"), (8, 8), annotation), Record("b", Path("b"), (8, 8)))
    found = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([0.0, 3.0])}
    split = DataSplit(records, ("cat", "dog"))
    evaluation = CountingTask().evaluate(found, split, CountConfig())
    # cat: |1 - 2| and |0 - 0|, dog: |1 - 1| and |3 - 0|
    assert [(row.objects, row.mean_error) for row in evaluation.per_class] == [(2, 0.5), (1, 1.5)]
    assert evaluation.metrics == {"mean_error": 1.0}


def test_a_run_has_the_files_of_every_task(run: Path) -> None:
    assert (run / "data_report.json").read_text() == '{"train": 12, "val": 6}'
    log = (run / "train.log").read_text()
    assert f"counting {', '.join(CLASSES)} in 12 images" in log
    assert "best negative mean error -" in log
    for name in ("config.yaml", "samples/train_batch0.jpg", "plots/curves.png", "weights/best.pt"):
        assert (run / name).is_file(), name
    assert "mean_error" in (run / "results.csv").read_text()


def test_a_resumed_run_ends_with_the_same_weights(run: Path, config: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    ran("train-det", "--cfg", config, "--out", half, "train.iterations=4")
    assert not torch.equal(weights_of(half)["count.weight"], weights_of(run)["count.weight"])
    ran("train-det", "--resume", half, "train.iterations=8")
    torch.testing.assert_close(weights_of(half), weights_of(run), rtol=0, atol=0)


def test_evaluation_of_a_checkpoint_and_of_an_ensemble(run: Path, tmp_path: Path) -> None:
    best, last = run / "weights" / "best.pt", run / "weights" / "last.pt"
    ran("eval", "--weights", best)
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    assert (metrics["task"], metrics["images"], metrics["classes"]) == ("counting", 6, CLASSES)
    ran("eval", "--weights", best, "--weights", last, "--out", tmp_path / "both")
    both = json.loads((tmp_path / "both" / "metrics.json").read_text())
    assert both["testing"] == "2 network(s)"


def test_classes_are_matched_by_name(
    run: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "weights" / "best.pt"
    words = ["train-det", "--cfg", config, "--weights", best, "--dry-run"]
    ran(*words, f"data.classes=[{', '.join(reversed(CLASSES))}]")
    assert "reordered by name" in capsys.readouterr().out
    fewer = ["data.classes=[circle, cross]", "data.ignore_classes=[ring, square, star, triangle]"]
    ran(*words, *fewer)
    said = capsys.readouterr().out
    assert "class rows kept: 2 of 2" in said
    assert "classes of the weights left out: 4 (ring; square; star; triangle)" in said
    ran(*words, *fewer, "--reset-head")
    assert "class layers re-initialised" in capsys.readouterr().out


def test_the_page_of_a_run(run: Path) -> None:
    ran("eval", "--weights", run / "weights" / "best.pt")
    ran("report", run)
    page = (run / "report.html").read_text()
    assert "width 8" in page
    assert "mean of |predicted - true|" in page


def test_what_it_does_not_give_is_refused(
    run: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "weights" / "best.pt"
    assert main(["infer", str(run), "--weights", str(best), "--out", str(tmp_path / "found")]) == 3
    assert "a counter is not applied to images" in capsys.readouterr().err
    assert main(["train-cls", "--cfg", str(config), "--print-config"]) == 2
    assert "this config is for 'counting'" in capsys.readouterr().err
    assert main(["eval", "--weights", str(best), "--no-coco"]) == 2
    assert ": for detectors" in capsys.readouterr().err
