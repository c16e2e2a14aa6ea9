"""The weights of a trial: the module's own with random changes, so that no two units are alike.

In a fresh BatchNorm all channels are alike: a trial could not tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from l0func import random
from l0func.internal.names import stream

# A large tensor repeats its random numbers with this period. It is prime, so rows and columns of
# all usual lengths still differ, and drawing takes no time beside the product.
_PERIOD = 65_521


def random_weights(tensors: Mapping[str, Tensor], draw: int, noise: float) -> dict[str, Tensor]:
    """Changed tensors in float64; integers stay.

    Args:
        tensors: Parameters or buffers, flat.
        draw: The number of this draw.
        noise: The size of what is added; beside it every entry is scaled by 0.5 to 1.5.
    """
    result = dict(tensors)
    for path, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.layout == torch.strided and tensor.numel():
            key = random.fold_in(random.key(draw), stream(path))
            result[path] = _changed(tensor.detach(), key, noise)
    return result


def as_before(changed: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Changed tensors in the types that they had."""
    return {path: tensor.to(tensors[path].dtype) for path, tensor in changed.items()}


def _changed(tensor: Tensor, key: Tensor, noise: float) -> Tensor:
    flat = tensor.reshape(-1)
    period = min(len(flat), _PERIOD)
    u = random.uniform(key, (2, period)).to(tensor.device, torch.float64)
    scale, offset = 0.5 + u[0], noise * (2 * u[1] - 1)
    result = torch.empty(len(flat), dtype=torch.float64, device=tensor.device)
    whole = len(flat) - len(flat) % period
    rows, rows_out = flat[:whole].view(-1, period), result[:whole].view(-1, period)
    torch.addcmul(offset, rows.double(), scale, out=rows_out)
    rest = len(flat) - whole
    torch.addcmul(offset[:rest], flat[whole:].double(), scale[:rest], out=result[whole:])
    return result.view(tensor.shape)
