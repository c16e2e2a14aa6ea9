"""The order of the optimal brain surgeon for the units that one layer reads."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 0.03  # relative to the mean square of the inputs


def surgeon_order(rows: Tensor, weight: Tensor, units: int, rounds: int = 16) -> Tensor:
    """The order of one group; ``rows`` are inputs of the layer that reads it."""
    covariance = rows.T.cov()
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(rows)
    wanted = weight @ covariance
    columns = torch.arange(len(covariance), device=rows.device).reshape(units, -1)
    alive, place = torch.arange(units, device=rows.device), torch.zeros(units).to(rows)
    gone = 0
    while len(alive):
        kept = columns[alive].flatten()
        inverse = torch.linalg.inv(covariance[kept][:, kept])
        fitted = (wanted[:, kept] @ inverse).reshape(len(weight), len(alive), -1)
        blocks = inverse.reshape(len(alive), columns.shape[1], len(alive), columns.shape[1])
        own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        by_unit = fitted.permute(1, 2, 0)
        error = (by_unit * torch.linalg.solve(own, by_unit)).sum((1, 2))
        order = error.argsort()
        count = max(1, units // rounds)
        place[alive[order[:count]]] = gone + torch.arange(len(order[:count])).to(rows)
        gone, alive = gone + count, alive[order[count:]]
    return place.float()
