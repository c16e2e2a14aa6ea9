"""Cases for every torch operation that a trace follows: units go through, or are kept by name.

A case is a function of hidden values; units lie along the last dimension of ``tokens``, shape
(rows, places, units), and along dimension 1 of ``images``. The functions take any number of units,
so that a test can leave some out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Case = Callable[[Tensor], Tensor]

aten = torch.ops.aten


def kernel(h: Tensor, *size: int) -> Tensor:
    """Fixed numbers: as many for each unit."""
    return torch.linspace(-1, 1, 2 * int(torch.Size(size).numel()), dtype=h.dtype)[::2].reshape(
        size
    )


MOVES: dict[str, Case] = {
    "_reshape_alias_copy": lambda h: aten._reshape_alias_copy(h, h.shape, h.contiguous().stride()),
    "_reshape_alias": lambda h: aten._reshape_alias(h, h.shape, h.contiguous().stride()),
    "_unsafe_index": lambda h: aten._unsafe_index(h, [None, torch.tensor([1, 0])]),
    "_unsafe_view": lambda h: aten._unsafe_view(h, h.shape),
    "alias": lambda h: aten.alias(h),
    "as_strided": lambda h: h.contiguous().as_strided((len(h), h.shape[2]), (h[0].numel(), 1)),
    "cat": lambda h: torch.cat([h, h.exp()], -1),
    "channel_shuffle": lambda h: F.channel_shuffle(h.mT, 1).mT,
    "native_channel_shuffle": lambda h: torch.native_channel_shuffle(h.mT, 1).mT,
    "clone": torch.clone,
    "constant_pad_nd": lambda h: F.pad(h, (0, 0, 1, 1)),
    "contiguous": lambda h: h.mT.contiguous().mT,
    "copy": lambda h: torch.empty_like(h).copy_(h),
    "detach": lambda h: h.detach(),
    "diagonal": lambda h: h.diagonal(0, 0, 1).T,
    "expand": lambda h: h[:, :1].expand(h.shape),
    "fill": lambda h: h + h.clone().fill_(2.0),
    "flip": lambda h: h.flip(-1),
    "gather": lambda h: h.gather(0, torch.zeros(h.shape, dtype=torch.long)),
    "index": lambda h: h[:, torch.tensor([1, 1, 0])],
    "index_select": lambda h: h.index_select(1, torch.tensor([1, 0])),
    "lift_fresh": lambda h: h * aten.lift_fresh(h),
    "permute": lambda h: h.permute(1, 0, 2),
    "pixel_shuffle": lambda h: F.pixel_shuffle(h.unsqueeze(1).expand(-1, 4, -1, -1).mT, 2).mT[
        :, 0
    ],
    "pixel_unshuffle": lambda h: F.pixel_unshuffle(h.unsqueeze(-1), 1).squeeze(-1),
    "repeat": lambda h: h.repeat(2, 1, 1),
    "roll": lambda h: h.roll(1, 0),
    "select": lambda h: h.select(1, 0),
    "slice": lambda h: h[:, 1:],
    "split": lambda h: h.split(1, 1)[0],
    "split_with_sizes": lambda h: h.split([1, 2], 1)[1],
    "squeeze": lambda h: h[:, :1].squeeze(1),
    "stack": lambda h: torch.stack([h, h.exp()], 1),
    "t": lambda h: h[0].t().t(),
    "take_along_dim": lambda h: h.take_along_dim(torch.zeros(h.shape, dtype=torch.long), 0),
    "transpose": lambda h: h.transpose(0, 1),
    "tril": lambda h: h.transpose(0, 2).tril().transpose(0, 2),
    "triu": lambda h: h.transpose(0, 2).triu().transpose(0, 2),
    "unbind": lambda h: h.unbind(1)[1],
    "unfold": lambda h: h.unfold(1, 2, 1)[..., 0],
    "unsqueeze": lambda h: h.unsqueeze(1),
    "view": lambda h: h.contiguous().view(-1, h.shape[-1]),
    "zero": lambda h: h + h.clone().zero_(),
    "_to_copy": lambda h: h.to(torch.float32).to(h.dtype),
}
for _name in ("empty_like", "zeros_like", "ones_like", "full_like"):
    _made = getattr(torch, _name)
    _rest = (0.5,) if _name == "full_like" else ()
    MOVES[_name] = lambda h, made=_made, rest=_rest: h + made(h, *rest).fill_(1.0)
for _name in ("new_empty", "new_zeros", "new_ones", "new_full"):
    _rest = (0.5,) if _name == "new_full" else ()
    MOVES[_name] = lambda h, name=_name, rest=_rest: (
        h + getattr(h, name)(h.shape, *rest).fill_(1.0)
    )
MOVES["new_empty_strided"] = lambda h: (
    h + h.new_empty_strided(h.shape, h.contiguous().stride()).zero_()
)

REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sum": lambda h, d: h.sum(d, keepdim=True),
    "nansum": lambda h, d: h.nansum(d, keepdim=True),
    "mean": lambda h, d: h.mean(d, keepdim=True),
    "amax": lambda h, d: h.amax(d, keepdim=True),
    "amin": lambda h, d: h.amin(d, keepdim=True),
    "max": lambda h, d: h.max(d, keepdim=True).values,
    "min": lambda h, d: h.min(d, keepdim=True).values,
    "aminmax": lambda h, d: h.aminmax(dim=d, keepdim=True).max,
    "var": lambda h, d: h.var(d, keepdim=True),
    "std": lambda h, d: h.std(d, keepdim=True),
    "var_mean": lambda h, d: torch.var_mean(h, d, keepdim=True)[0],
    "std_mean": lambda h, d: torch.std_mean(h, d, keepdim=True)[0],
    "prod": lambda h, d: h.prod(d, keepdim=True),
    "argmax": lambda h, d: h.argmax(d, keepdim=True).to(h.dtype),
    "argmin": lambda h, d: h.argmin(d, keepdim=True).to(h.dtype),
    "any": lambda h, d: h.gt(0.6).any(d, keepdim=True).to(h.dtype),
    "all": lambda h, d: h.gt(0.4).all(d, keepdim=True).to(h.dtype),
    "logsumexp": lambda h, d: h.logsumexp(d, keepdim=True),
    "linalg_vector_norm": lambda h, d: torch.linalg.vector_norm(h, dim=d, keepdim=True),
    "norm": lambda h, d: aten.norm.ScalarOpt_dim(h, 2, [d], True),
    "median": lambda h, d: h.median(d, keepdim=True).values,
    "mode": lambda h, d: h.mode(d, keepdim=True).values,
    "count_nonzero": lambda h, d: h.relu().count_nonzero(d).unsqueeze(d).to(h.dtype),
    "_softmax": lambda h, d: h.softmax(d),
    "_log_softmax": lambda h, d: h.log_softmax(d),
    "_safe_softmax": lambda h, d: aten._safe_softmax(h, d),
    "cumsum": lambda h, d: h.cumsum(d),
    "cumprod": lambda h, d: h.cumprod(d),
    "cummax": lambda h, d: h.cummax(d).values,
    "cummin": lambda h, d: h.cummin(d).values,
    "logcumsumexp": lambda h, d: h.logcumsumexp(d),
    "sort": lambda h, d: h.sort(d).values,
    "topk": lambda h, d: h.topk(1, d).values,
    "kthvalue": lambda h, d: h.kthvalue(1, d, keepdim=True).values,
}


def _folded(columns: Tensor) -> Tensor:
    return torch.cat([F.fold(columns, 5, 2), F.fold(columns[0], 5, 2)[None]])


POOLS: dict[str, Case] = {
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool3d": lambda x: F.avg_pool3d(x[..., None], (2, 2, 1)),
    "max_pool2d_with_indices": lambda x: F.max_pool2d(x, 2),
    "max_pool3d_with_indices": lambda x: F.max_pool3d(x[..., None], (2, 2, 1)),
    "_adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "_adaptive_avg_pool3d": lambda x: F.adaptive_avg_pool3d(x[..., None], (2, 2, 1)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "adaptive_max_pool3d": lambda x: F.adaptive_max_pool3d(x[..., None], (2, 2, 1)),
    "reflection_pad1d": lambda x: F.pad(x.flatten(2), (1, 1), "reflect"),
    "reflection_pad2d": lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
    "reflection_pad3d": lambda x: F.pad(x[..., None, :, :], (1, 1, 1, 1, 0, 0), "reflect"),
    "replication_pad1d": lambda x: F.pad(x.flatten(2), (1, 1), "replicate"),
    "replication_pad2d": lambda x: F.pad(x, (1, 1, 1, 1), "replicate"),
    "replication_pad3d": lambda x: F.pad(x[..., None, :, :], (1, 1, 1, 1, 0, 0), "replicate"),
    "upsample_nearest1d": lambda x: F.interpolate(x.flatten(2), 20),
    "upsample_nearest2d": lambda x: F.interpolate(x, 6),
    "upsample_nearest3d": lambda x: F.interpolate(x[..., None], (6, 6, 1)),
    "_upsample_nearest_exact1d": lambda x: F.interpolate(x.flatten(2), 20, mode="nearest-exact"),
    "_upsample_nearest_exact2d": lambda x: F.interpolate(x, 6, mode="nearest-exact"),
    "_upsample_nearest_exact3d": lambda x: F.interpolate(
        x[..., None], (6, 6, 1), mode="nearest-exact"
    ),
    "upsample_linear1d": lambda x: F.interpolate(x.flatten(2), 20, mode="linear"),
    "upsample_bilinear2d": lambda x: F.interpolate(x, 6, mode="bilinear"),
    "upsample_bicubic2d": lambda x: F.interpolate(x, 6, mode="bicubic"),
    "_upsample_bilinear2d_aa": lambda x: F.interpolate(x, 3, mode="bilinear", antialias=True),
    "_upsample_bicubic2d_aa": lambda x: F.interpolate(x, 3, mode="bicubic", antialias=True),
    "upsample_trilinear3d": lambda x: F.interpolate(x[..., None], (6, 6, 2), mode="trilinear"),
    # Each for a batch and for a single image.
    "im2col": lambda x: torch.cat([F.unfold(x, 2), F.unfold(x[0], 2)[None]]).unflatten(
        1, (x.shape[1], -1)
    ),
    "col2im": lambda x: _folded(x.flatten(2).unsqueeze(2).expand(-1, -1, 4, -1).flatten(1, 2)),
    "grid_sampler_2d": lambda x: F.grid_sample(
        x, kernel(x, 1, 3, 3, 2).expand(len(x), 3, 3, 2), align_corners=False
    ),
    "grid_sampler_3d": lambda x: F.grid_sample(
        x[..., None], kernel(x, 1, 1, 3, 3, 3).expand(len(x), 1, 3, 3, 3), align_corners=False
    ),
    "max_unpool3d": lambda x: F.max_unpool3d(
        *F.max_pool3d(x[..., None], (2, 2, 1), return_indices=True), (2, 2, 1)
    ),
    "max_unpool2d": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
}


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(x.shape[1], dtype=x.dtype), torch.ones(x.shape[1], dtype=x.dtype)


NORMS: dict[str, Case] = {
    "_native_batch_norm_legit": lambda x: aten._native_batch_norm_legit.no_stats(
        x, None, None, True, 0.1, 1e-5
    )[0],
    "_native_batch_norm_legit_no_training": lambda x: aten._native_batch_norm_legit_no_training(
        x, None, None, *_statistics(x), 0.1, 1e-5
    )[0],
    "_batch_norm_with_update": lambda x: aten._batch_norm_with_update(
        x, None, None, *_statistics(x), 0.1, 1e-5
    )[0],
    "_batch_norm_no_update": lambda x: aten._batch_norm_no_update(
        x, None, None, *_statistics(x), 0.1, 1e-5
    )[0],
    "native_batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "native_group_norm": lambda x: F.group_norm(x, x.shape[1]),
    "native_layer_norm": lambda x: F.layer_norm(x, x.shape[2:]),
}

if hasattr(F, "rms_norm"):
    NORMS["_fused_rms_norm"] = lambda x: F.rms_norm(x, x.shape[2:])

PRODUCTS: dict[str, Case] = {
    "mm": lambda h: (h[0].T.mm(kernel(h, 3, 2))).T,
    "bmm": lambda h: torch.bmm(kernel(h, 1, 2, 3).expand(len(h), 2, 3), h),
    "addmm": lambda h: torch.addmm(torch.ones(2, 1, dtype=h.dtype), kernel(h, 2, 3), h[0]),
    "baddbmm": lambda h: torch.baddbmm(
        torch.ones(1, 2, 1, dtype=h.dtype), kernel(h, 1, 2, 3).expand(len(h), 2, 3), h
    ),
    "mv": lambda h: h[0].T.mv(kernel(h, 3)),
}

UNUSUAL: dict[str, Case] = {
    "a sum of no places": lambda h: h + h[:, :0].sum(1, keepdim=True),
    "a sum of no units": lambda h: h + h[..., :0].sum(-1, keepdim=True),
    "a product of no terms": lambda h: h + (h[..., :0] @ h[..., :0].mT).sum(-1, keepdim=True),
    "a product of constants": lambda h: torch.addmm(
        h[0], h.new_ones(len(h[0]), 4), h.new_ones(4, h.shape[-1])
    ),
    "padding of other dimensions": lambda h: F.pad(h[None], (0, 0, 1, 1), "reflect")[0],
    "a pad around no places": lambda h: torch.cat([h, F.pad(h[:, :0], (0, 0, 1, 1))], 1),
    "kthvalue without its dimension": lambda h: h.kthvalue(1, 1).values,
    "kthvalue along the last dimension": lambda h: h.mT.kthvalue(1).values,
    "mode along the last dimension": lambda h: h.mT.mode().values,
    "cat with out": lambda h: torch.cat([h, h.exp()], 1, out=h.new_empty(0)),
    "stack with out": lambda h: torch.stack([h, h.exp()], 1, out=h.new_empty(0)),
    "index_select with out": lambda h: torch.index_select(
        h, 1, torch.tensor([1, 0]), out=h.new_empty(0)
    ),
    "view as integers": lambda h: h + h.view({8: torch.int64, 4: torch.int32}[h.element_size()]),
    "the imaginary part of a conjugate": lambda h: torch.cat(
        [h, torch.complex(h, h.exp()).conj().imag], -1
    ),
}
UNUSUAL_IMAGES: dict[str, Case] = {
    "fold of no images": lambda x: torch.cat([x, F.fold(F.unfold(x[:0], 2), 4, 2)]),
}
