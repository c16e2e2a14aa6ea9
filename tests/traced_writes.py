"""More cases for the inventory of operations: writes at indices, complex numbers, and refusals."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from traced_operations import REDUCTIONS, Case

aten = torch.ops.aten
FIRST = torch.tensor([0])


def _rows(h: Tensor) -> Tensor:
    return torch.zeros(h.shape, dtype=torch.long)


WRITES: dict[str, Case] = {
    "index_add": lambda h: h.index_add(1, FIRST, h[:, 1:2].exp()),
    "index_copy": lambda h: h.index_copy(1, FIRST, h[:, 1:2].exp()),
    "index_fill": lambda h: h.index_fill(1, FIRST, 0.5),
    "index_put": lambda h: h.index_put((torch.tensor([0, 1]), FIRST), h[:, 1].exp()),
    "_index_put_impl": lambda h: aten._index_put_impl_(h.clone(), [FIRST], h[1].exp()),
    "_unsafe_index_put": lambda h: aten._unsafe_index_put(h, [FIRST], h[1].exp()),
    "scatter": lambda h: h.scatter(1, _rows(h)[:, :1], h[:, 1:2].exp()),
    "scatter_add": lambda h: h.scatter_add(1, _rows(h), h.exp()),
    "scatter_reduce": lambda h: h.scatter_reduce(1, _rows(h), h.exp(), "amax"),
    "masked_scatter": lambda h: h.masked_scatter(
        torch.tensor([True, False, True])[:, None], h.flatten(0, 1).exp()
    ),
    "masked_fill": lambda h: h.masked_fill(torch.tensor([True, False, True])[:, None], 0.0),
}


UNUSUAL_WRITES: dict[str, Case] = {
    "scatter from more rows": lambda h: h.scatter(1, _rows(h), torch.cat([h, h]).exp()),
    "scatter at one index": lambda h: h.scatter(1, _rows(h)[:1, :1], torch.cat([h, h], 1).exp()),
    "scatter from more units": lambda h: h.scatter_add(1, _rows(h), torch.cat([h, h], 2).exp()),
    "scatter into one row": lambda h: h.scatter_reduce(1, _rows(h)[:1], h.exp(), "amax"),
    "scatter at no index": lambda h: h.scatter_reduce(1, _rows(h)[:, :0], h.exp(), "amax"),
    "index_add at no index": lambda h: h.index_add(1, FIRST[:0], h[:, :0].exp()),
    "index_copy at no index": lambda h: h.index_copy(-2, FIRST[:0], h[:, :0].exp()),
    "index_put of one row": lambda h: h.index_put((torch.tensor([0, 1]),), h[0, :1].exp()),
    "index_put at no index": lambda h: h.index_put((FIRST[:0],), h[:0].exp()),
    "masked_scatter nowhere": lambda h: h.masked_scatter(torch.tensor(False), h[:0]),
    "masked_scatter into nothing": lambda h: torch.cat(
        [h[:0].masked_scatter(torch.tensor(True), h.exp()), h]
    ),
    "masked_scatter from one row": lambda h: (
        h[:1, :1].masked_scatter(torch.tensor(True), h[0, 0].exp()) + h
    ),
}


def _turned(h: Tensor) -> Tensor:
    """A rotation as language models write it, of pairs along the places."""
    pairs = torch.view_as_complex(torch.stack([h, h.exp()], -1))
    turned = torch.view_as_real(pairs * torch.polar(torch.ones(3, 1), torch.ones(3, 1)).to(pairs))
    return turned[..., 0]


COMPLEX: dict[str, Case] = {
    "view_as_complex": _turned,
    "view_as_real": _turned,
    "complex": lambda h: torch.complex(h, h.exp()).abs(),
    "polar": lambda h: torch.polar(h, h.exp()).real,
    "_conj": lambda h: torch.complex(h, h.exp()).conj().resolve_conj().imag,
    "_fft_r2c": lambda h: torch.fft.rfft(h, dim=1).abs(),
    "_fft_c2c": lambda h: torch.fft.fft(torch.complex(h, h.exp()), dim=1).abs(),
    "_fft_c2r": lambda h: torch.fft.irfft(torch.complex(h, h.exp()), dim=1),
}

REFUSED: dict[str, Case] = {
    name: lambda h, f=f: h + f(h, 2) for name, f in REDUCTIONS.items() if name != "norm"
}
REFUSED |= {
    "native_layer_norm": lambda h: F.layer_norm(h, h.shape[2:]),
    "native_group_norm": lambda h: F.group_norm(h.mT, 1).mT,
    "avg_pool2d": lambda h: F.avg_pool2d(h, 2),
    "max_pool2d_with_indices": lambda h: F.max_pool2d(h, 2),
    "_adaptive_avg_pool2d": lambda h: F.adaptive_avg_pool2d(h, 2),
    "adaptive_max_pool2d": lambda h: F.adaptive_max_pool2d(h, 2),
    "reflection_pad1d": lambda h: F.pad(h, (1, 1), "reflect"),
    "replication_pad1d": lambda h: F.pad(h, (1, 1), "replicate"),
    "upsample_nearest1d": lambda h: F.interpolate(h, 12),
    "_upsample_nearest_exact1d": lambda h: F.interpolate(h, 12, mode="nearest-exact"),
    "upsample_linear1d": lambda h: F.interpolate(h, 12, mode="linear"),
    "upsample_bilinear2d": lambda h: F.interpolate(h[:, None], 12, mode="bilinear"),
    "upsample_bicubic2d": lambda h: F.interpolate(h[:, None], 12, mode="bicubic"),
    "_fft_r2c": lambda h: torch.fft.rfft(h).abs(),
    "_fft_c2c": lambda h: torch.fft.fft(torch.complex(h, h)).abs(),
    "index_add": lambda h: h.index_add(2, FIRST, h[..., 1:2]),
    "index_copy": lambda h: h.index_copy(2, FIRST, h[..., 1:2]),
    "index_fill": lambda h: h.index_fill(2, FIRST, 0.5),
    "index_put": lambda h: h.index_put((torch.tensor([0]), FIRST, FIRST), h[0, 0, :1]),
    "scatter": lambda h: h.scatter(2, _rows(h), h),
    "scatter_add": lambda h: h.scatter_add(2, _rows(h), h),
    "scatter_reduce": lambda h: h.scatter_reduce(2, _rows(h), h, "amax"),
    "masked_scatter": lambda h: h.masked_scatter(torch.arange(6) > 2, h),
    "grid_sampler_2d": lambda h: (
        F.grid_sample(
            torch.ones(2, 6, 3, 3, dtype=h.dtype), h.unflatten(2, (3, 2)), align_corners=False
        )
        .flatten(2)
        .mT[..., :3]
    ),
    "add": lambda h: h + h[..., :1],
    "mul": lambda h: h * h[..., :1],
    "div": lambda h: h / h[..., :1],
    "where": lambda h: torch.where(h > 0.5, h, h[..., :1]),
    "addcmul": lambda h: torch.addcmul(h, h, h[..., :1]),
    "dot": lambda h: h + torch.dot(h[0, 0], h[0, 1]),
    "addmv": lambda h: h + torch.addmv(h[0, :, 0], h[0], h[0, 0])[:, None],
    "histc": lambda h: h + torch.histc(h, 6),
    "linalg_inv_ex": lambda h: torch.linalg.inv(h[:, :, :3] + torch.eye(3, dtype=h.dtype)),
    "_cdist_forward": lambda h: torch.cdist(h, h, 1.0),
}

_PRODUCTS = "tests/tracing/test_products.py::"
_LAYERS = "tests/tracing/test_layers.py::"

ELSEWHERE: dict[str, str] = {
    "linear": _PRODUCTS + "test_a_matrix_reads_units_by_its_rows_and_makes_units_by_its_columns",
    "convolution": _PRODUCTS + "test_a_kernel_reads_channels_and_makes_channels",
    "_convolution": _PRODUCTS + "test_a_kernel_reads_channels_and_makes_channels",
    "embedding": _LAYERS + "test_the_columns_of_an_embedding_are_units",
    "_grouped_mm": "tests/compaction/test_stranger_rules.py::"
    "test_hidden_units_go_from_experts_in_grouped_products",
    "glu": "tests/tracing/test_dataflow.py::test_a_gated_linear_unit_ties_its_halves",
}
