"""The registry of backbones by config name.

To add one, derive from `Backbone` in a new file and add its line here.
"""

from __future__ import annotations

from .base import Backbone
from .resnet import CifarResNet, ResNet

BACKBONES: dict[str, type[Backbone]] = {
    "resnet": ResNet,
    "cifar": CifarResNet,
}
