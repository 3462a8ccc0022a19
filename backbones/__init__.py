"""All backbones by the name that configs give them.

A new one is a file with a subclass of `Backbone`, and a line here.
"""

from __future__ import annotations

from .base import Backbone
from .resnet import CifarResNet, ResNet

BACKBONES: dict[str, type[Backbone]] = {
    "resnet": ResNet,
    "cifar": CifarResNet,
}
