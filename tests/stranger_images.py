"""Image architectures as their authors write them; ``strangers`` lists them with inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """Two levels, transposed convolutions up, skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self.double(3, 6), self.double(6, 8)
        self.middle = self.double(8, 10)
        self.up2, self.up1 = (
            nn.ConvTranspose2d(10, 7, 2, stride=2),
            nn.ConvTranspose2d(8, 5, 2, stride=2),
        )
        self.join2, self.join1 = self.double(15, 8), self.double(11, 6)
        self.head = nn.Conv2d(6, 2, 1)

    @staticmethod
    def double(into: int, out: int) -> nn.Module:
        first, second = nn.Conv2d(into, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        return nn.Sequential(
            *(first, nn.BatchNorm2d(out), nn.ReLU(True)),
            *(second, nn.BatchNorm2d(out), nn.ReLU(True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        y = self.up2(self.middle(F.max_pool2d(b, 2)))
        y = self.up1(self.join2(torch.cat([b, y], dim=1)))
        return self.head(self.join1(torch.cat([a, y], dim=1)))


class Inception(nn.Module):
    """Four branches side by side, one of them pooled, read by the next block and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one = nn.Conv2d(6, 4, 1)
        self.three = nn.Sequential(nn.Conv2d(6, 3, 1), nn.ReLU(), nn.Conv2d(3, 5, 3, padding=1))
        self.five = nn.Sequential(nn.Conv2d(6, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 5, padding=2))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 4, 1))
        self.norm = nn.BatchNorm2d(16)
        self.out = nn.Linear(16 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        branches = [self.one(x), self.three(x), self.five(x), self.pooled(x)]
        x = F.relu(self.norm(torch.cat(branches, 1)))
        return self.out(torch.flatten(F.adaptive_avg_pool2d(x, 2), 1))


class Separable(nn.Module):
    """Depthwise-separable convolutions with inverted residuals and a squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.Hardswish()
        )
        self.expand = nn.Sequential(
            nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.SiLU()
        )
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project = nn.Sequential(nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.head((x + self.project(y)).mean((2, 3)))


class ResNet(nn.Module):
    """Two stages of two residual blocks, with a projection where the width changes."""

    class Block(nn.Module):
        def __init__(self, into: int, out: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = (
                nn.Conv2d(into, out, 3, stride, 1, bias=False),
                nn.BatchNorm2d(out),
            )
            self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
            project = nn.Sequential(
                nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )
            self.shortcut = nn.Identity() if into == out else project

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(y + self.shortcut(x))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.stages = nn.Sequential(
            self.Block(6, 6, 1), self.Block(6, 6, 1), self.Block(6, 8, 2), self.Block(8, 8, 1)
        )
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(self.stem(x)).mean((-2, -1)))


class ResNeXt(nn.Module):
    """A grouped convolution and GroupNorms between pointwise ones."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm1 = nn.Conv2d(3, 12, 1), nn.GroupNorm(4, 12)
        self.grouped, self.norm2 = nn.Conv2d(12, 8, 3, padding=1, groups=4), nn.GroupNorm(4, 8)
        self.leave = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.enter(x)))
        x = F.gelu(self.norm2(self.grouped(x)))
        return self.leave(x)


class DenseNet(nn.Module):
    """Every layer reads all that came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.layer(4 + 3 * i) for i in range(3))
        self.stem, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(13, 2)

    @staticmethod
    def layer(width: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.out(torch.cat(features, 1).amax((2, 3)))


class Folded(nn.Module):
    """A hidden layer reshaped into an image and back, by the sizes in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = (5, 2, 2)
        self.enter, self.conv, self.leave = nn.Linear(4, 20), nn.Conv2d(5, 6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        image = torch.relu(self.enter(x)).view(-1, *self.shape)
        return self.leave(torch.relu(self.conv(image)).flatten(1))


class Pixels(nn.Module):
    """Channel attention, a pixel shuffle, a GRU cell over image rows, and centred weights."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2, 16, 3, padding=1)
        self.shuffle, self.mix = nn.PixelShuffle(2), nn.Conv2d(4, 6, 1)
        self.squeeze = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6))
        self.centred = nn.Conv2d(6, 5, 1)
        self.cell, self.out = nn.GRUCell(5, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(torch.relu(self.shuffle(self.enter(x))))
        attention = self.squeeze(x.mean((2, 3))) + self.squeeze(x.amax((2, 3)))
        x = x * torch.sigmoid(attention)[:, :, None, None]
        weight = self.centred.weight - self.centred.weight.mean((1, 2, 3), keepdim=True)
        rows = F.conv2d(x, weight, self.centred.bias).mean(3)
        h = x.new_zeros(len(x), self.cell.hidden_size)
        for row in rows.unbind(2):
            h = self.cell(row, h)
        return self.out(h)
