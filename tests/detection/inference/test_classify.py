"""Class scores over crops, sizes and networks, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from resdet.backbones.pixels import PIXELS, PixelNorm
from resdet.backbones.resnet import ResNet
from resdet.datasets.loading.crops import CentreCrop, Crop, FullImage, TenCrop, crop_sample
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.inference.classify import ClassifierMember, ScorePipeline
from resdet.detection.models.classifier import Classifier
from resdet.detection.structures import Batch
from resdet.detection.tasks.classifier_network import eval_crops
from torch.nn import functional

CLASSES = 6


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    network = ResNet(depth=18, width=4, norm="batch").classifier(CLASSES)
    return Classifier(PixelNorm(PIXELS["torchvision"]), network, window=2).eval()


def make_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def made(crops: tuple[Crop, ...], *arrays: np.ndarray) -> Batch:
    return Batch.collate(
        [crop_sample(p, crops, image_id=str(i)) for i, p in enumerate(arrays)], pad=False
    )


@torch.inference_mode()
def one_by_one(model: Classifier, views: list[np.ndarray], *, dense: bool) -> torch.Tensor:
    """The mean softmax score over ``views`` of one image, a pass for each."""
    total = np.zeros(CLASSES)
    for view in views:
        image = torch.from_numpy(view.copy()).permute(2, 0, 1)[None]
        logits = model.dense_logits(image) if dense else model.logits(image)
        total += functional.softmax(logits[0].double(), dim=0).numpy()
    return torch.from_numpy(total / len(views)).float()


def test_ten_crops_equal_a_loop_over_crops(model: Classifier) -> None:
    """Images whose shorter side is 72 already, so that the crops can be cut by hand from the middle
    square: columns 4 to 76 of 80."""
    pipeline = ScorePipeline([ClassifierMember(model, (TenCrop(72, 64),))])
    images = [make_image(72, 80, 1), make_image(72, 80, 2)]
    found = pipeline.predict(made(pipeline.crops, *images))
    for pixels, scores in zip(images, found, strict=True):
        views = []
        for shown in (pixels, pixels[:, ::-1]):
            for y, x in ((0, 4), (0, 12), (8, 4), (8, 12), (4, 8)):
                views.append(shown[y : y + 64, x : x + 64])
        torch.testing.assert_close(scores, one_by_one(model, views, dense=False))
        assert scores.sum().item() == pytest.approx(1)


def test_multi_scale_equals_a_loop_over_scales(model: Classifier) -> None:
    config = ClassifierConfig.model_validate(
        {
            "test": {
                "protocol": "multi_scale",
                "size": 64,
                "resize": 64,
                "short_sides": (48, 64, 96),
                "flip": True,
            }
        }
    )
    crops = eval_crops(config.test)
    assert crops == tuple(FullImage(side, flip) for side in (48, 64, 96) for flip in (False, True))
    pipeline = ScorePipeline([ClassifierMember(model, crops, dense=True)])
    pixels = make_image(70, 90)
    (scores,) = pipeline.predict(made(crops, pixels))
    views = [FullImage(side)(pixels).numpy() for side in (48, 64, 96)]
    views += [view[:, ::-1] for view in views]
    torch.testing.assert_close(scores, one_by_one(model, views, dense=True))


def test_an_ensemble_averages_scores(model: Classifier) -> None:
    """The second network scores other crops; each gets its own."""
    torch.manual_seed(1)
    backbone = ResNet(depth=18, width=4, norm="batch")
    other = Classifier(model.pixels, backbone.classifier(CLASSES), window=1).eval()
    one = ClassifierMember(model, (CentreCrop(72, 64),))
    two = ClassifierMember(other, (CentreCrop(40, 32), CentreCrop(40, 32, True)))
    pixels = make_image(80, 75)

    def scores(*members: ClassifierMember) -> torch.Tensor:
        pipeline = ScorePipeline(members)
        return pipeline.predict(made(pipeline.crops, pixels))[0]

    torch.testing.assert_close(scores(one, one), scores(one))
    torch.testing.assert_close(scores(one, two), (scores(one) + scores(two)) / 2)
    assert not torch.allclose(scores(one), scores(two), atol=1e-3)


def test_a_batch_of_other_views_is_refused(model: Classifier) -> None:
    pipeline = ScorePipeline([ClassifierMember(model, (TenCrop(72, 64),))])
    with pytest.raises(ValueError, match="1 views"):
        pipeline.predict(made((CentreCrop(72, 64),), make_image(72, 72)))
    with pytest.raises(ValueError, match="needs networks"):
        ScorePipeline([])
