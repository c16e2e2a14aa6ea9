"""Products written out against torch's own."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from l0func.pure.written_out import linear


def test_products_without_a_batching_rule_equal_torchs():
    a, b, w, bias = torch.randn(5, 3), torch.randn(5, 2), torch.randn(4, 3, 2), torch.randn(4)
    torch.testing.assert_close(linear.bilinear(a, b, w, bias), F.bilinear(a, b, w, bias))
    torch.testing.assert_close(linear.bilinear(a[0], b[0], w), F.bilinear(a[0], b[0], w))
    for dim in (0, 1, -1):
        v = torch.randn(4, 3, 2)
        g = (
            torch.rand(())
            if dim == -1
            else torch.rand([n if d == dim else 1 for d, n in enumerate(v.shape)])
        )
        norms = (
            v.norm() if dim == -1 else v.movedim(dim, 0).flatten(1).norm(dim=1).reshape(g.shape)
        )
        torch.testing.assert_close(linear.weight_norm(v, g, dim), v * g / norms)
