"""The task of detection: objects of K classes as scored boxes (Faster R-CNN C4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...backbones.weights.convert import Converted
from ...backbones.weights.fetch import resolve
from ...backbones.weights.layouts import LAYOUTS
from ...backbones.weights.load import (
    check_binding,
    check_network,
    import_weights,
    load_into,
    split_backbone,
)
from ...datasets.catalog import DataSplit
from ...datasets.checks.check import summarise
from ...datasets.checks.report import report_as_dict
from ...datasets.loading.dataset import DetectionDataset, eval_loader, train_loader
from ..config.base import HeldOut
from ..config.data_rules import anchors_in_training, image_rules
from ..config.detector import DetectorConfig
from ..config.network import started_from
from ..engine.distributed import Group
from ..engine.plots import plot_detections, plot_labels
from ..errors import WeightsError
from ..evaluation.coco import Spread
from ..evaluation.detection import DetectionEvaluation, evaluate
from ..evaluation.prediction import autocast
from ..export.network import Export, ExportedPipeline
from ..inference.pipeline import Pipeline
from ..inference.predictor import Predictor
from ..inference.result_types import DetectionResult
from ..models.faster_rcnn import FasterRCNN
from ..structures import Batch, Detections
from .banner import describe_size, describe_splits
from .base import Loaded, Part, Splits, Task
from .describing import describe_overridden
from .detector_data import read_sources, read_test
from .detector_export import applied, detector_graph, exported_detector, parted_detector
from .detector_network import (
    build_detector,
    describe_pipeline,
    eval_transform,
    train_transform,
)
from .detector_weights import config_of, with_own_stride
from .skipped import evaluate_read

Detector = Loaded[FasterRCNN, DetectorConfig]


class DetectionTask(Task):
    """Detectors: data with boxes, mean average precision."""

    name = "detection"
    noun = "a detector"
    command = "train-det"
    schema = DetectorConfig
    metric = "mAP"
    class_layers: ClassVar[Mapping[str, int]] = {
        "roi_head.cls_logits.": 1,
        "roi_head.box_deltas.": 4,
    }
    network_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "backbone": ("family", "depth", "width", "norm", "stride_in", "pixels"),
        "rpn": ("channels", "anchor_sizes", "anchor_ratios"),
        "roi": (
            "pool",
            "pool_size",
            "tail_stride",
            "class_agnostic_boxes",
            "box_weights",
            "context",
        ),
    }
    #: Settings of testing that belong to trained weights.
    test_settings: ClassVar[tuple[str, ...]] = (
        "image.short_side_test",
        "image.long_side_max",
        "rpn.pre_nms_test",
        "rpn.post_nms_test",
        "test.score_threshold",
        "test.nms_iou",
        "test.max_detections",
    )
    exported_settings: ClassVar[tuple[str, ...]] = (
        *test_settings,
        "rpn.nms_iou",
        "rpn.min_size",
        "test.suppress",
        "test.refine",
        "test.vote",
        "test.scales",
        "test.flip",
        "test.pyramid",
    )
    graph_counts = ("one", "two")
    by_shape = True
    plot_labels = staticmethod(plot_labels)

    # -- network ---------------------------------------------------------------------------------

    def build(self, config: DetectorConfig, classes: int) -> FasterRCNN:
        return build_detector(config, classes)

    def load_pretrained(self, loaded: Detector) -> list[str]:
        """Load ``backbone.weights`` into trunk and conv5_x."""
        backbone = loaded.config.backbone
        if backbone.weights is None:
            return super().load_pretrained(loaded)
        path = resolve(backbone.weights)
        converted = with_own_stride(import_weights(path), path)
        depth, width = backbone.depth, backbone.width
        check_network(converted, depth=depth, width=width, source=str(path))
        check_binding(converted, pixels=backbone.pixels, stride_in=backbone.stride_in)
        if converted.kind == "classifier":
            tensors, notes = split_backbone(converted.tensors, backbone.build(), source=str(path))
        else:
            kept = ("trunk.", "roi_head.res5.")
            tensors = {k: v for k, v in converted.tensors.items() if k.startswith(kept)}
            notes = ("RPN and sibling layers of the detector are left out",)
        heads = ("pixels.", "rpn_head.", *self.class_layers)
        load_into(loaded.model, tensors, allow_missing=heads, source=str(path))
        done = f"weights: {path} ({converted.layout}, {len(tensors)} tensors)"
        return [done, *converted.notes, *notes]

    def read_converted(
        self, converted: Converted, path: Path
    ) -> tuple[Mapping[str, Tensor], DetectorConfig, tuple[str, ...]]:
        if converted.kind != "detector":
            raise WeightsError(f"{path}: holds a {converted.kind}, not a detector")
        if LAYOUTS[converted.layout].own:
            raise WeightsError(
                f"{path}: made from a checkpoint of this toolkit, without the config that came "
                "with it; use the checkpoint itself"
            )
        if converted.anchors == "rounded":
            raise WeightsError(
                f"{path}: trained with rounded anchors centred at 16k + 7.5, which this network "
                "does not have; its boxes would be off by half a cell. Use it as backbone.weights"
            )
        classes = converted.class_names
        return converted.tensors, config_of(converted), classes

    def prepare_model(self, loaded: Detector, group: Group) -> None:
        loaded.model.mean_count = group.all_reduce_mean
        super().prepare_model(loaded, group)

    # -- data ------------------------------------------------------------------------------------

    def read(
        self,
        config: DetectorConfig,
        part: Part,
        classes: tuple[str, ...] | None = None,
        *,
        training: bool = False,
    ) -> DataSplit:
        """``data.difficult`` applies to training only; evaluation always ignores difficult
        objects."""
        difficult = config.data.difficult if training else "ignore"
        train, val = config.data.train, config.data.val
        sources = train if part == "train" or isinstance(val, HeldOut) else val
        return read_sources(config, sources, classes, difficult)

    def read_test(self, config: DetectorConfig, classes: tuple[str, ...]) -> DataSplit:
        return read_test(config, classes)

    def train_dataset(
        self, config: DetectorConfig, split: DataSplit, prepared: None
    ) -> DetectionDataset:
        return DetectionDataset(split.records, train_transform(config), rules=image_rules(config))

    def eval_batches(
        self, pipeline: Pipeline, config: DetectorConfig, split: DataSplit, group: Group
    ) -> Iterable[Batch]:
        return eval_loader(
            DetectionDataset(split.records, *pipeline.transforms, rules=image_rules(config)),
            batch_size=config.test.batch_size,
            workers=config.data.workers,
            rank=group.rank,
            world=group.world,
            pin_memory=group.device.type == "cuda",
        )

    # -- prediction and evaluation -----------------------------------------------------------------

    def pipeline(self, members: Sequence[Detector]) -> Pipeline | ExportedPipeline:
        return applied(members)

    def export(self, loaded: Detector, graphs: str) -> Export:
        return (parted_detector if graphs == "two" else detector_graph)(loaded)

    def exported(self, folder: Path, config: DetectorConfig, classes: int) -> nn.Module:
        return exported_detector(folder, config, classes)

    def predictor(self, pipeline: Pipeline, **options: Any) -> Predictor[DetectionResult]:
        return Predictor(pipeline, **options)

    def evaluate(
        self,
        found: Mapping[str, Detections],
        split: DataSplit,
        config: DetectorConfig,
        *,
        quick: bool = False,
        coco: bool = True,
        only: Sequence[str] = (),
        spread: Spread = map,
        **options: Any,
    ) -> DetectionEvaluation:
        """VOC's and, with ``coco``, COCO's numbers by ``eval.coco_library``, which may take
        minutes: ``quick`` leaves them out unless ``eval.metric`` is one of them, and ``spread`` is
        that of `coco_scores`. ``only`` are the classes to evaluate; none: all."""
        coco = coco and (not quick or config.eval.metric.startswith("coco"))
        ilsvrc = config.eval.metric == "ilsvrc_ap"
        sizes, library = config.eval.sizes, config.eval.coco_library if coco else None
        scored = partial(
            evaluate, coco=library, ilsvrc=ilsvrc, sizes=sizes, only=only, spread=spread
        )
        return evaluate_read(scored, found, split, config)

    def selection_metric(self, evaluation: DetectionEvaluation, config: DetectorConfig) -> float:
        return evaluation.metrics[config.eval.metric]

    def describe_best(self, config: DetectorConfig, best: float) -> str:
        return f"{config.eval.metric} {best:.4f}"

    @torch.no_grad()
    def validate(self, loaded: Detector, split: DataSplit, group: Group) -> dict[str, float]:
        """The mean loss over ``val_loss_batches`` training-size batches of test-time images."""
        config, count = loaded.config, loaded.config.train.val_loss_batches
        if count == 0:
            return {}
        dataset = DetectionDataset(split.records, eval_transform(config), rules=image_rules(config))
        settings = config.train.model_copy(update={"iterations": count})
        plan, pin_memory = self.batch_plan(settings, split, 0, group), group.device.type == "cuda"
        losses = []
        workers = config.data.workers
        for batch in train_loader(dataset, plan, workers=workers, pin_memory=pin_memory):
            with autocast(group.device, config.train.precision):
                outputs = loaded.model(batch.to(group.device))
            losses.append(torch.stack(list(outputs.values())).sum())
        return {"val_loss": group.all_reduce_mean(torch.stack(losses).mean()).item()}

    def show_predictions(
        self, loaded: Detector, split: DataSplit, found: Mapping[str, Detections], folder: Path
    ) -> None:
        shown = [record for record in split.records if record.image_id in found][:8]
        path = folder / "samples" / "val_detections.jpg"
        plot_detections(shown, found, loaded.classes, path, rules=image_rules(loaded.config))

    # -- words -----------------------------------------------------------------------------------

    def describe(self, loaded: Detector, splits: Splits) -> list[str]:
        config = loaded.config
        rpn = config.rpn
        return [
            *describe_splits(splits),
            f"model: {config.backbone.build().name} C4, norm {config.backbone.norm}, "
            f"{describe_size(loaded.model)}",
            f"anchors: {list(rpn.anchor_sizes)} x {list(rpn.anchor_ratios)}; proposals: "
            f"{rpn.post_nms_train} in training, {rpn.post_nms_test} in testing",
        ]

    def describe_testing(self, members: Sequence[Detector], pipeline: object) -> str:
        overridden = describe_overridden(members, self.test_settings)
        if isinstance(pipeline, ExportedPipeline):
            overridden = [f"exported, in {pipeline.network.runtime}", *overridden]
        return "; ".join([describe_pipeline(members), *overridden])

    def facts(self, config: DetectorConfig) -> list[tuple[str, str]]:
        network, image = config.backbone, config.image
        sides = f"short {image.short_side_test}, long {image.long_side_max}"
        return [
            ("detector", f"Faster R-CNN, {network.build().name} C4, width {network.width}"),
            ("started from", started_from(config.train, network)),
            ("image sides in testing", sides),
        ]

    def data_report(self, config: DetectorConfig, splits: Splits, path: Path) -> str:
        report = summarise(str(path), splits, anchors_in_training(config), path)
        return json.dumps(report_as_dict(report), ensure_ascii=False, indent=1) + "\n"


DETECTION = DetectionTask()
