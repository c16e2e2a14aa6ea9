"""Resizers, one for each module class: the module's sizes follow from the kept slices.

``removal`` calls :func:`resize` for every submodule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from l0func.compaction.cut import SubmoduleCut
from l0func.compaction.resize_recurrent import resize_cell, resize_recurrent
from l0func.pure.part import Part
from l0func.smaller import FewerHeads

Resizer = Callable[[SubmoduleCut], Part]


def resize(cut: SubmoduleCut) -> Part:
    """The submodule without its tensors, with sizes that fit the kept slices.

    Raises:
        ValueError: The kept slices contradict each other, or the module cannot lose some.
    """
    if not cut.kept_indices:
        return cut.part
    for kind, resizer in RESIZERS.items():
        if issubclass(cut.part.kind, kind):
            return resizer(cut)
    return cut.part


def rescaling(cut: SubmoduleCut) -> dict[str, float]:
    """Factors for the module's tensors that make up for lost slices, by their names in it.

    If an RMSNorm over N units keeps N', its weight is multiplied by sqrt(N / N'): the mean square
    over the kept units is larger by N / N'.
    """
    if not cut.kept_indices or not issubclass(cut.part.kind, RMS_NORMS):
        return {}
    kept = cut.kept("weight", 0)
    return {"weight": (len(kept) / int(kept.sum())) ** 0.5}


def _with_attributes(cut: SubmoduleCut, **attributes: Any) -> Part:
    return replace(cut.part, plain=cut.part.plain | attributes)


def _resize_linear(cut: SubmoduleCut) -> Part:
    if not cut.has("weight"):
        # Its weight is computed, for instance by a parametrization, from tensors in its children.
        return cut.part
    cut.check_same(("weight", 0), ("bias", 0))
    outputs, inputs = cut.kept_count("weight", 0), cut.kept_count("weight", 1)
    return _with_attributes(cut, in_features=inputs, out_features=outputs)


def _resize_conv(cut: SubmoduleCut) -> Part:
    if not cut.has("weight"):
        return cut.part
    plain = cut.part.plain
    for dim in range(2, len(cut.shape("weight"))):
        cut.check_uncut("weight", dim, "a kernel keeps its size")
    if plain["groups"] > 1:
        return _resize_grouped_conv(cut)
    output_dim, input_dim = (1, 0) if plain["transposed"] else (0, 1)
    cut.check_same(("weight", output_dim), ("bias", 0))
    outputs, inputs = cut.kept_count("weight", output_dim), cut.kept_count("weight", input_dim)
    return _with_attributes(cut, in_channels=inputs, out_channels=outputs)


def _resize_grouped_conv(cut: SubmoduleCut) -> Part:
    plain = cut.part.plain
    groups: int = plain["groups"]
    kept = cut.kept_blocks("weight", 0, groups, "group")
    cut.check_uncut("weight", 1, "a grouped convolution loses whole groups only")
    if cut.has("bias") and not torch.equal(cut.kept_blocks("bias", 0, groups, "group"), kept):
        raise cut.cannot_resize("'weight' and 'bias' lose different groups")
    count = int(kept.sum())
    inputs = count * (plain["in_channels"] // groups)
    outputs = count * (plain["out_channels"] // groups)
    return _with_attributes(cut, groups=count, in_channels=inputs, out_channels=outputs)


def _resize_channel_norm(cut: SubmoduleCut) -> Part:
    first = next(name for name in ("weight", "running_mean", "bias") if cut.has(name))
    cut.check_same((first, 0), ("bias", 0), ("running_mean", 0), ("running_var", 0))
    return _with_attributes(cut, num_features=cut.kept_count(first, 0))


def _resize_group_norm(cut: SubmoduleCut) -> Part:
    cut.check_same(("weight", 0), ("bias", 0))
    kept = cut.kept_blocks("weight", 0, cut.part.plain["num_groups"], "group")
    channels = cut.kept_count("weight", 0)
    return _with_attributes(cut, num_groups=int(kept.sum()), num_channels=channels)


def _resize_layer_norm(cut: SubmoduleCut) -> Part:
    raise cut.cannot_resize(
        "it normalises over the units to be removed, so that all remaining units would change"
    )


def _resize_rms_norm(cut: SubmoduleCut) -> Part:
    weight = cut.tensors["weight"]
    if weight.dim() != 1:
        raise cut.cannot_resize("it normalises over several dimensions at once")
    eps: float | None = cut.part.plain["eps"]
    eps = torch.finfo(weight.dtype).eps if eps is None else eps
    count = cut.kept_count("weight", 0)
    # The mean square over the kept units is larger by N / N', since the closed ones are zero.
    resized = _with_attributes(cut, eps=eps * len(weight) / count)
    return resized.with_attribute("normalized_shape", (count,))


def _resize_embedding(cut: SubmoduleCut) -> Part:
    cut.check_uncut("weight", 0, "its indices would then mean other rows")
    return _with_attributes(cut, embedding_dim=cut.kept_count("weight", 1))


def _resize_prelu(cut: SubmoduleCut) -> Part:
    return _with_attributes(cut, num_parameters=cut.kept_count("weight", 0))


def _resize_attention(cut: SubmoduleCut) -> Part:
    plain, weights = cut.part.plain, "in_proj_weight"
    if not cut.has(weights) or cut.has("bias_k") or plain["add_zero_attn"]:
        raise cut.cannot_resize(
            "only attention with one packed projection, without bias_k, bias_v and add_zero_attn, "
            "can lose heads"
        )
    cut.check_uncut(weights, 1, "its inputs' width is that of a residual stream")
    cut.check_same((weights, 0), ("in_proj_bias", 0))
    heads: int = plain["num_heads"]
    kept = _kept_heads(cut, heads)
    changed = {
        "num_heads": int(kept.sum()),
        "head_dim": cut.shape(weights)[1] // heads,
        # With this set to False, torch's encoder layer does not read the packed weights by itself.
        "_qkv_same_embed_dim": False,
    }
    return replace(cut.part, kind=FewerHeads, plain=plain | changed)


def _kept_heads(cut: SubmoduleCut, heads: int) -> Tensor:
    """A bool vector over the heads; queries, keys and values must keep the same ones."""
    packed = cut.kept_blocks("in_proj_weight", 0, 3 * heads, "head")
    queries, keys, values = packed.reshape(3, heads)
    if not (torch.equal(queries, keys) and torch.equal(queries, values)):
        raise cut.cannot_resize("queries, keys and values lose different heads")
    return queries


# There is none in torch before 2.4.
RMS_NORMS: tuple[type[nn.Module], ...] = (nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORM_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

RESIZERS: dict[type[nn.Module], Resizer] = {
    nn.Linear: _resize_linear,
    nn.GroupNorm: _resize_group_norm,
    nn.LayerNorm: _resize_layer_norm,
    nn.Embedding: _resize_embedding,
    nn.EmbeddingBag: _resize_embedding,
    nn.PReLU: _resize_prelu,
    nn.MultiheadAttention: _resize_attention,
    nn.RNNBase: resize_recurrent,
    nn.RNNCellBase: resize_cell,
}
for _kind in CONVOLUTIONS + _TRANSPOSED_CONVOLUTIONS:
    RESIZERS[_kind] = _resize_conv
for _kind in _BATCH_NORM_MODULES + _INSTANCE_NORMS:
    RESIZERS[_kind] = _resize_channel_norm
for _kind in RMS_NORMS:
    RESIZERS[_kind] = _resize_rms_norm
