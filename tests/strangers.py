"""Architectures outside the zoo, each with a batch of inputs: cases for tracing and removal."""

from __future__ import annotations

import torch
from stranger_images import DenseNet, Folded, Inception, Pixels, ResNet, ResNeXt, Separable, UNet
from stranger_sequences import Encoder, First, GroupedQueries, LastState, Normed, Padded, Tagger
from torch import nn
from zoo import Case


def images(*shape: int):
    return lambda: (torch.randn(3, *shape),)


def tokens(high: int, length: int):
    return lambda: (torch.randint(0, high, (3, length)),)


STRANGERS = [
    Case("unet", UNet, images(3, 8, 8)),
    Case("inception", Inception, images(3, 6, 6)),
    Case("separable", Separable, images(3, 8, 8)),
    Case("resnet", ResNet, images(3, 8, 8)),
    Case("resnext", ResNeXt, images(3, 5, 5)),
    Case("densenet", DenseNet, images(2, 5, 5)),
    Case("encoder_of_linears", Encoder, tokens(11, 5)),
    Case("grouped_queries", GroupedQueries, images(4, 6)),
    Case("tagger_lstm", lambda: Tagger(nn.LSTM), tokens(9, 4)),
    Case("tagger_gru", lambda: Tagger(nn.GRU), tokens(9, 4)),
    Case("last_state", LastState, lambda: (torch.randn(4, 3, 3),)),
    Case("padded", Padded, lambda: (torch.randn(4, 3, 8),)),
    Case("pixels", Pixels, images(2, 3, 3)),
    Case("folded", Folded, images(4)),
    *([Case("rms_norms", Normed, tokens(11, 5))] if hasattr(nn, "RMSNorm") else []),
    Case(
        "without_affine",
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 3),
            nn.GroupNorm(4, 8, affine=False),
            nn.Conv2d(8, 6, 1),
            nn.BatchNorm2d(6, affine=False),
            nn.Conv2d(6, 2, 1),
        ),
        images(2, 5, 5),
    ),
    Case(
        "unflattened",
        lambda: nn.Sequential(
            nn.Linear(4, 20),
            nn.Unflatten(1, (5, 2, 2)),
            nn.ReLU(),
            nn.Conv2d(5, 4, 2),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        images(4),
    ),
    Case(
        "transformer",
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 4, 12, batch_first=True), 2, enable_nested_tensor=False
        ),
        images(4, 8),
    ),
    Case(
        "projected_lstm",
        lambda: nn.Sequential(
            nn.Linear(3, 5),
            nn.ReLU(),
            First(nn.LSTM(5, 6, proj_size=4, num_layers=2)),
            nn.Linear(4, 2),
        ),
        images(4, 3),
    ),
    Case(
        "conv1d",
        lambda: nn.Sequential(
            nn.Conv1d(2, 6, 3),
            nn.PReLU(6),
            nn.InstanceNorm1d(6, affine=True),
            nn.ConvTranspose1d(6, 4, 3),
            nn.Tanh(),
            nn.Upsample(scale_factor=2),
            nn.ReplicationPad1d(1),
            nn.Conv1d(4, 3, 3, padding_mode="circular", padding=1),
        ),
        images(2, 8),
    ),
]
