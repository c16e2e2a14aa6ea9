"""Operations on gated parameters, each as a function of parameters and an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Operation(NamedTuple):
    name: str
    run: Callable[[dict[str, Tensor], Tensor], Tensor]
    weight: tuple[int, ...]
    row: tuple[int, ...]
    bias: int = 4

    def __repr__(self) -> str:
        return self.name


def tokens(x: Tensor) -> Tensor:
    return (x.detach().abs() * 100).long() % 6


OPERATIONS = [
    Operation("linear", lambda p, x: F.linear(x, p["w"], p["b"]), (4, 6), (1, 6)),
    Operation("linear of many rows", lambda p, x: F.linear(x, p["w"]), (4, 6), (2, 3, 6)),
    Operation("matmul", lambda p, x: x @ p["w"].T + p["b"], (4, 6), (1, 6)),
    Operation("matmul from the left", lambda p, x: p["w"] @ x, (4, 6), (6,)),
    Operation("matmul of a batch", lambda p, x: torch.matmul(p["w"].mT, x), (6, 4), (2, 6, 3)),
    Operation("mm", lambda p, x: torch.mm(x, p["w"].t()), (4, 6), (2, 6)),
    Operation("mv", lambda p, x: torch.mv(p["w"], x), (4, 6), (6,)),
    Operation(
        "addmm",
        lambda p, x: torch.addmm(p["b"], x, p["w"].transpose(0, 1), beta=2, alpha=3),
        (4, 6),
        (2, 6),
    ),
    Operation(
        "bilinear", lambda p, x: F.bilinear(x, x[..., :3], p["w"], p["b"]), (4, 5, 3), (2, 5)
    ),
    Operation("chunks", lambda p, x: sum(F.linear(x, w) for w in p["w"].chunk(3)), (6, 6), (1, 6)),
    Operation(
        "slices",
        lambda p, x: F.linear(x, p["w"][1:4]) * F.linear(x, p["w"].narrow(0, 3, 3)),
        (6, 5),
        (1, 5),
    ),
    Operation(
        "the last rows, counted from the end",
        lambda p, x: F.linear(x, torch.narrow(p["w"], 0, -2, 2)),
        (6, 5),
        (1, 5),
    ),
    Operation(
        "columns",
        lambda p, x: F.linear(x, p["w"][:, 1:4]) + F.linear(x, p["w"].narrow(1, 3, 3)),
        (4, 6),
        (1, 3),
    ),
    Operation("scaled", lambda p, x: F.linear(x, -2 * p["w"] * 0.5), (4, 6), (1, 6)),
    Operation("flattened", lambda p, x: F.linear(x, p["w"].flatten(1)), (4, 2, 3), (1, 6)),
    Operation("viewed", lambda p, x: F.linear(x, p["w"].view(4, -1)), (4, 2, 3), (1, 6)),
    Operation("split up", lambda p, x: F.conv1d(x, p["w"].reshape(4, 3, 2)), (4, 6), (1, 3, 5)),
    Operation(
        "merged rows",
        lambda p, x: F.linear(x, torch.reshape(p["w"], shape=(-1, 3))),
        (4, 2, 3),
        (1, 3),
    ),
    Operation(
        "unsqueezed",
        lambda p, x: F.conv1d(x, p["w"].squeeze(1).unsqueeze(-1), p["b"]),
        (4, 1, 3),
        (1, 3, 5),
    ),
    Operation(
        "experts",
        lambda p, x: F.linear(x, p["w"][1]) * F.linear(x, p["w"].select(0, -1)),
        (4, 5, 6),
        (1, 6),
    ),
    Operation("every other row", lambda p, x: F.linear(x, p["w"][::2]), (6, 5), (1, 5)),
    Operation("arithmetic", lambda p, x: (p["w"] + 1).exp() * x - p["w"] / 3, (4, 6), (6,)),
    Operation(
        "a matrix twice",
        lambda p, x: F.linear(F.linear(x, p["w"]).tanh(), p["w"].t()),
        (4, 6),
        (1, 6),
    ),
    Operation(
        "conv1d",
        lambda p, x: F.conv1d(x, p["w"], p["b"], stride=2, padding=1),
        (4, 3, 3),
        (1, 3, 7),
    ),
    Operation(
        "conv2d",
        lambda p, x: F.conv2d(x, p["w"], p["b"], dilation=2, padding=(1, 2)),
        (4, 3, 2, 3),
        (2, 3, 5, 6),
    ),
    Operation(
        "conv2d of no batch",
        lambda p, x: F.conv2d(x, p["w"], p["b"], padding="same"),
        (4, 3, 3, 3),
        (3, 5, 6),
    ),
    Operation(
        "conv2d in groups",
        lambda p, x: F.conv2d(x, p["w"], groups=2, stride=(2, 1)),
        (4, 3, 3, 2),
        (1, 6, 5, 4),
    ),
    Operation(
        "conv2d depthwise", lambda p, x: F.conv2d(x, p["w"], groups=4), (4, 1, 3, 3), (1, 4, 5, 4)
    ),
    Operation(
        "conv3d",
        lambda p, x: F.conv3d(x, p["w"], p["b"], stride=2, padding=1),
        (4, 2, 3, 2, 2),
        (1, 2, 5, 4, 3),
    ),
    Operation(
        "transposed conv1d",
        lambda p, x: F.conv_transpose1d(x, p["w"], p["b"], stride=2),
        (3, 4, 3),
        (1, 3, 4),
    ),
    Operation(
        "transposed conv2d",
        lambda p, x: F.conv_transpose2d(x, p["w"], p["b"], groups=2),
        (4, 3, 2, 2),
        (1, 4, 3, 3),
        6,
    ),
    Operation(
        "transposed conv3d",
        lambda p, x: F.conv_transpose3d(x, p["w"], p["b"]),
        (4, 2, 2, 2, 2),
        (1, 4, 3, 2, 2),
        2,
    ),
    Operation(
        "transposed conv2d of no batch",
        lambda p, x: F.conv_transpose2d(x, p["w"], p["b"]),
        (3, 4, 2, 2),
        (3, 3, 2),
    ),
    Operation(
        "transposed conv2d with all settings",
        lambda p, x: F.conv_transpose2d(x, p["w"], None, (3, 2), (1, 0), (2, 1), 2, (1, 2)),
        (4, 2, 3, 2),
        (2, 4, 2, 3),
    ),
    Operation(
        "transposed conv1d padded beyond its stride",
        lambda p, x: F.conv_transpose1d(x, p["w"], None, 1, 0, 1, 1, 2),
        (3, 4, 2),
        (1, 3, 3),
    ),
    Operation(
        "embedding", lambda p, x: F.embedding(tokens(x), p["w"]) * x.unsqueeze(-1), (6, 8), (2, 5)
    ),
    Operation(
        "embedding of odd size",
        lambda p, x: F.embedding(tokens(x), p["w"]) * x.unsqueeze(-1),
        (6, 5),
        (5,),
    ),
    Operation("layer norm", lambda p, x: F.layer_norm(x, (4, 3), p["w"]), (4, 3), (2, 4, 3)),
    Operation("group norm", lambda p, x: F.group_norm(x, 2, p["b"]), (4, 3), (1, 4, 3)),
]
