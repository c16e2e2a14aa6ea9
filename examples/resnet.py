"""A small ResNet for images of 8×8, and scikit-learn's digits to train it on."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0

Data = tuple[Tensor, Tensor, Tensor, Tensor]


class Block(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        project = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.shortcut = nn.Identity() if into == out else project

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet(width: int = 48) -> nn.Module:
    """A stem and four blocks; the third halves the image and doubles the width."""
    stem = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )
    blocks = [
        Block(width, width, 1),
        Block(width, width, 1),
        Block(width, 2 * width, 2),
        Block(2 * width, 2 * width, 1),
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)]
    return nn.Sequential(stem, *blocks, *head)


def digits() -> Data:
    """Train images and labels, test images and labels; pixels in [-1, 1]."""
    x, y = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    order = l0.random.uniform(l0.random.key(3), len(x)).argsort()
    x = x[order].float().reshape(-1, 1, 8, 8) / 8 - 1
    y = y[order]
    return x[:1297], y[:1297], x[1297:], y[1297:]


def shifted(x: Tensor, key: Tensor) -> Tensor:
    """Each image moved by up to one pixel: 1297 digits are few."""
    top, left = (l0.random.uniform(key, (2, len(x))) * 3).long()
    index = torch.arange(8)
    rows = (top[:, None] + index)[:, :, None]
    columns = (left[:, None] + index)[:, None, :]
    images = torch.arange(len(x))[:, None, None]
    padded = F.pad(x, (1, 1, 1, 1), value=-1.0)
    return padded[images, 0, rows, columns][:, None]


def accuracy(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of digits that are read, in percent."""
    with torch.no_grad():
        right = module.eval()(x).argmax(1) == y
    return float(right.float().mean()) * 100
