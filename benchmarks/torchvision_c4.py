"""torchvision's Faster R-CNN assembled as C4 with our weights.

All layers, the RPN and the box head are torchvision's. Two parts are adapted so that both sides do
the same work and their outputs can be compared: anchors have our positions (torchvision rounds
them, and for 600 px, which are 38 cells, uses a stride of 15 px), and RoIAlign is half-pixel
aligned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.models.faster_rcnn import FasterRCNN
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN as TorchvisionRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, roi_align


class StrideAnchors(AnchorGenerator):
    """torchvision's generator with given cell anchors (A, 4) at a distance of ``stride`` px."""

    def __init__(
        self, cells: Tensor, stride: int, sizes: tuple[float, ...], ratios: tuple[float, ...]
    ) -> None:
        super().__init__((sizes,), (ratios,))
        self.cell_anchors = [cells]
        self.stride = stride

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        height, width = feature_maps[0].shape[-2:]
        whole = image_list.tensors.new_empty(0, 3, height * self.stride, width * self.stride)
        return super().forward(ImageList(whole, image_list.image_sizes), feature_maps)


class AlignedPool(MultiScaleRoIAlign):
    """torchvision's RoIAlign on one feature map, with half-pixel alignment."""

    def __init__(self, size: int, stride: int, sampling_ratio: int) -> None:
        super().__init__(["0"], size, sampling_ratio)
        self.stride = stride

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        size, ratio = self.output_size[0], self.sampling_ratio
        return roi_align(x["0"], boxes, size, 1 / self.stride, ratio, aligned=True)


def assemble_peer(ours: FasterRCNN, config: DetectorConfig, size: tuple[int, int]) -> Any:
    """torchvision's model with the weights and settings of ``ours``, for images of ``size`` (h, w).

    It takes RGB images (3, h, w) float32 in 0..1. The config must have frozen norms, the stride of
    bottlenecks in the 3x3 convolution and RGB pixels, like torchvision.
    """
    if config.backbone.norm != "frozen" or config.backbone.stride_in != "3x3":
        raise ValueError("torchvision's ResNet has frozen norms and its stride in the 3x3")
    if config.roi.class_agnostic_boxes:
        raise ValueError("torchvision has box deltas for each class")
    resnet = _resnet(ours.state_dict(), config.backbone.depth)
    rpn, roi, test = config.rpn, config.roi, config.test
    backbone = config.backbone.build()
    pixels, stride = backbone.pixels, backbone.stride
    trunk = _trunk(resnet, backbone.channels, config.backbone.frozen_stages)
    ratio_major = _ratio_major(len(rpn.anchor_sizes), len(rpn.anchor_ratios))
    anchors = StrideAnchors(
        ours.anchors.cells[ratio_major], stride, rpn.anchor_sizes, rpn.anchor_ratios
    )
    peer = TorchvisionRCNN(
        trunk,
        min_size=min(size),
        max_size=max(size),
        size_divisible=1,
        image_mean=[value / 255 for value in pixels.mean],
        image_std=[value / 255 for value in pixels.std],
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(trunk.out_channels, len(ratio_major)),
        rpn_pre_nms_top_n_train=rpn.pre_nms_train,
        rpn_pre_nms_top_n_test=rpn.pre_nms_test,
        rpn_post_nms_top_n_train=rpn.post_nms_train,
        rpn_post_nms_top_n_test=rpn.post_nms_test,
        rpn_nms_thresh=rpn.nms_iou,
        rpn_fg_iou_thresh=rpn.positive_iou,
        rpn_bg_iou_thresh=rpn.negative_iou,
        rpn_batch_size_per_image=rpn.batch_per_image,
        rpn_positive_fraction=rpn.positive_fraction,
        box_roi_pool=AlignedPool(roi.pool_size, stride, roi.sampling_ratio),
        box_head=nn.Sequential(resnet.layer4, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        box_predictor=FastRCNNPredictor(resnet.fc.in_features, ours.roi_head.classes + 1),
        box_score_thresh=test.score_threshold,
        box_nms_thresh=test.nms_iou,
        box_detections_per_img=test.max_detections,
        box_fg_iou_thresh=roi.positive_iou,
        box_bg_iou_thresh=roi.positive_iou,
        box_batch_size_per_image=roi.batch_per_image,
        box_positive_fraction=roi.positive_fraction,
        bbox_reg_weights=roi.box_weights,
    )
    _copy_heads(ours, peer, ratio_major)
    return peer


def _resnet(state: Mapping[str, Tensor], depth: int) -> Any:
    resnet = getattr(torchvision.models, f"resnet{depth}")(norm_layer=FrozenBatchNorm2d)
    renamed = {
        torchvision_name(name): tensor
        for name, tensor in state.items()
        if name.startswith(("trunk.", "roi_head.res5."))
    }
    missing, unexpected = resnet.load_state_dict(renamed, strict=False)
    if unexpected or set(missing) != {"fc.weight", "fc.bias"}:
        raise ValueError(f"names differ: missing {missing}, unexpected {unexpected}")
    return resnet


def torchvision_name(name: str) -> str:
    """``trunk.res2.0.conv1.norm.bias`` to ``layer1.0.bn1.bias``, and so on."""
    parts = name.removeprefix("trunk.").removeprefix("roi_head.").removeprefix("stem.").split(".")
    if parts[0].startswith("res"):
        parts[0] = f"layer{int(parts[0][3:]) - 1}"
    where = -3 if parts[-2] == "norm" else -2
    layer, norm = parts[where], where == -3
    if layer == "shortcut":
        renamed = ["downsample", "1" if norm else "0"]
    else:
        renamed = [layer.replace("conv", "bn") if norm else layer]
    return ".".join([*parts[:where], *renamed, parts[-1]])


def _trunk(resnet: Any, channels: int, frozen_stages: int) -> Any:
    stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
    trunk: Any = nn.Sequential(stem, resnet.layer1, resnet.layer2, resnet.layer3)
    for stage in list(trunk)[:frozen_stages]:
        stage.requires_grad_(False)
    trunk.out_channels = channels
    return trunk


def _ratio_major(sizes: int, ratios: int) -> list[int]:
    """Indices of torchvision's anchors (ratio-major) among ours (size-major)."""
    return [size * ratios + ratio for ratio in range(ratios) for size in range(sizes)]


@torch.no_grad()
def _copy_heads(ours: FasterRCNN, peer: Any, ratio_major: list[int]) -> None:
    head, source = peer.rpn.head, ours.rpn_head.state_dict()
    box_rows = torch.tensor(ratio_major)[:, None] * 4 + torch.arange(4)
    head.conv[0][0].weight.copy_(source["conv.weight"])
    head.conv[0][0].bias.copy_(source["conv.bias"])
    head.cls_logits.weight.copy_(source["logits.weight"][ratio_major])
    head.cls_logits.bias.copy_(source["logits.bias"][ratio_major])
    head.bbox_pred.weight.copy_(source["deltas.weight"][box_rows.flatten()])
    head.bbox_pred.bias.copy_(source["deltas.bias"][box_rows.flatten()])

    predictor, roi = peer.roi_heads.box_predictor, ours.roi_head
    # torchvision's background is class 0; its box deltas are unused.
    predictor.cls_score.weight.copy_(roi.cls_logits.weight.roll(1, 0))
    predictor.cls_score.bias.copy_(roi.cls_logits.bias.roll(1, 0))
    predictor.bbox_pred.weight[4:].copy_(roi.box_deltas.weight)
    predictor.bbox_pred.bias[4:].copy_(roi.box_deltas.bias)
