"""Contractions with masks that are laid out: by einsum, or by a convolution for each example."""

from __future__ import annotations

from typing import Any

import torch
from device import seeded_generator
from torch import Tensor
from torch.nn import functional as F

from l0func import random
from l0func.kernels.contraction import Contraction, Operands, Output
from l0func.kernels.convolution import ConvolutionSizes


def operands(
    contraction: Contraction, batch: int, vectors: int, dtype: torch.dtype = torch.float64
) -> Operands:
    """Random factors; a convolution has ``vectors`` images for each key."""
    generator = seeded_generator(batch + 10 * vectors)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    (out, into), sizes = contraction.shape, contraction.convolution
    gates, a = normal(*contraction.gates), normal(out, into)
    if sizes is None:
        return Operands(gates, a, normal(batch, vectors, into), normal(batch, vectors, out))
    x = normal(batch, vectors, sizes.channels, *sizes.space)
    return Operands(gates, a, x, normal(batch, vectors, out, *sizes.windows))


def without(given: Operands, kind: str) -> Operands:
    """The factors without the one to compute."""
    field = {"y": "g"}.get(kind, kind)
    return given._replace(**{field: None})


def derivative(distribution: Any, order: int, u: Tensor, la: Tensor) -> Tensor:
    """The draw's derivative by differentiating its definition, again and again."""

    def f(la: Tensor) -> Tensor:
        return distribution.quantile(u, la)

    for _ in range(order):
        f = (lambda g: lambda la: torch.func.jvp(g, (la,), (torch.ones_like(la),))[1])(f)
    return f(la)


def masks(contraction: Contraction, order: int, keys: Tensor, log_alpha: Tensor) -> Tensor:
    """Every example's masks, ``(B, O, I)``."""
    drawn = [_uniforms(contraction, key, log_alpha) for key in keys]
    u = torch.stack(drawn) if drawn else log_alpha.new_empty(0, *log_alpha.shape)
    # A copy: torch writes tangents into no expanded tensor.
    z = derivative(contraction.distribution, order, u, log_alpha.expand(u.shape).clone())
    return z.repeat_interleave(contraction.repeat, -1)


def _uniforms(contraction: Contraction, key: Tensor, log_alpha: Tensor) -> Tensor:
    # The generator's calls make four numbers each.
    call, skip = divmod(contraction.first, 4)
    start = torch.stack((key[0], key[1] + call))
    rows, width = log_alpha.shape
    # A part of a wider weight: its columns of whole rows.
    line = contraction.step or width
    u = random.uniform(start, skip + rows * line)[skip:].reshape(rows, line)
    return u[:, :width].to(log_alpha.dtype)


def by_hand(contraction: Contraction, output: Output, z: Tensor, given: Operands) -> Tensor:
    """A contraction over masks z that are laid out, ``(B, O, I)``."""
    if contraction.convolution is not None:
        return _by_convolutions(contraction.convolution, output, z, given)
    a, x, g = given.a, given.x, given.g
    if output.kind == "y":
        return torch.einsum("boi,bri,oi->bro", z, x, a)
    if output.kind == "x":
        return torch.einsum("boi,bro,oi->bri", z, g, a)
    return torch.einsum("boi,bro,bri->oi", z, g, x)


def _by_convolutions(
    sizes: ConvolutionSizes, output: Output, z: Tensor, given: Operands
) -> Tensor:
    """The convolution, or its derivatives by autograd, one example after another."""
    settings = sizes.stride, sizes.padding, sizes.dilation, sizes.groups
    kernel = z.shape[1], sizes.channels // sizes.groups, *sizes.kernel

    def convolved(x: Tensor, a: Tensor) -> Tensor:
        rows = [
            F.conv3d(image, (mask * a).reshape(kernel), None, *settings)
            for image, mask in zip(x, z, strict=True)
        ]
        return torch.stack(rows)

    images = given.x
    if images is None:
        assert given.g is not None
        images = given.g.new_zeros(*given.g.shape[:2], sizes.channels, *sizes.space)
    weight = given.log_alpha.new_zeros(z.shape[1:]) if given.a is None else given.a
    if len(z) == 0:
        y = images.new_zeros(*images.shape[:2], z.shape[1], *sizes.windows)
        return {"y": y, "x": images, "a": torch.zeros_like(weight)}[output.kind]
    y, pull = torch.func.vjp(convolved, images, weight)
    if output.kind == "y":
        return y
    return pull(given.g)[0 if output.kind == "x" else 1]
