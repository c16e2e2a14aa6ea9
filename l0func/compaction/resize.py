"""A submodule of other sizes: which attributes follow from the slices that its tensors keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from l0func.pure.part import Part
from l0func.smaller import FewerHeads, UnequalRecurrent, recurrent_names

KeptIndices = Mapping[int, Tensor]
"""For dimensions of a tensor that lose slices, which are kept: bool, as long as the dimension."""


class SubmoduleCut:
    """One submodule and the slices that its tensors keep.

    Args:
        path: Of the module.
        part: The module without its tensors.
        tensors: Its own, by their names in it.
        kept: For tensors that lose slices.
    """

    def __init__(
        self, path: str, part: Part, tensors: Mapping[str, Tensor], kept: Mapping[str, KeptIndices]
    ) -> None:
        self.path, self.part, self.kept = path, part, kept
        self.shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        self.dtypes = {name: t.dtype for name, t in tensors.items()}

    def has(self, name: str) -> bool:
        """Whether the module has a tensor of this name."""
        return name in self.shapes

    def of(self, name: str, dim: int) -> Tensor:
        """Which slices along a dimension are kept."""
        every = torch.ones(self.shapes[name][dim], dtype=torch.bool)
        return self.kept.get(name, {}).get(dim, every)

    def count(self, name: str, dim: int) -> int:
        """How many."""
        return int(self.of(name, dim).sum())

    def agree(self, first: tuple[str, int], *others: tuple[str, int]) -> None:
        """Refuse tensors that lose different slices where the module needs the same.

        Raises:
            ValueError: They differ.
        """
        for name, dim in others:
            if self.has(name) and not torch.equal(self.of(*first), self.of(name, dim)):
                raise self.error(
                    f"{first[0]!r} keeps {self.count(*first)} of its "
                    f"{self.shapes[first[0]][first[1]]} slices along dimension "
                    f"{first[1]}, and {name!r} keeps {self.count(name, dim)} along dimension "
                    f"{dim}, not the same. Name both "
                    "in one group"
                )

    def whole(self, name: str, dim: int, parts: int, what: str) -> Tensor:
        """Of equal parts of a dimension, which are kept.

        Raises:
            ValueError: A part is kept in part.
        """
        kept = self.of(name, dim).reshape(parts, -1)
        if not torch.equal(kept.any(1), kept.all(1)):
            raise self.error(
                f"{name!r} loses some slices of a {what} and keeps others; a {what} goes as a "
                f"whole"
            )
        return kept.all(1)

    def untouched(self, name: str, dim: int, why: str) -> None:
        """Refuse a loss along this dimension.

        Raises:
            ValueError: There is one.
        """
        if self.has(name) and not bool(self.of(name, dim).all()):
            raise self.error(f"{name!r} loses slices along dimension {dim}, and {why}")

    def error(self, problem: str) -> ValueError:
        """An error about this module."""
        kind = self.part.kind.__name__
        return ValueError(
            f"{kind} {self.path!r} cannot be made smaller: {problem}. l0func.unit_groups finds "
            f"whole groups."
        )


def resize(cut: SubmoduleCut) -> Part:
    """The submodule without its tensors, its sizes those of the slices that are kept.

    Raises:
        ValueError: The kept slices contradict each other, or the module cannot do without some.
    """
    if not cut.kept:
        return cut.part
    for kind, rule in RESIZERS.items():
        if issubclass(cut.part.kind, kind):
            return rule(cut)
    return cut.part


def _with_sizes(cut: SubmoduleCut, **sizes: int) -> Part:
    return replace(cut.part, plain=cut.part.plain | sizes)


def _resize_linear(s: SubmoduleCut) -> Part:
    if not s.has("weight"):
        # Its weight is computed, by a parametrization for instance, from tensors of modules below.
        return s.part
    s.agree(("weight", 0), ("bias", 0))
    return _with_sizes(s, in_features=s.count("weight", 1), out_features=s.count("weight", 0))


def _resize_conv(s: SubmoduleCut) -> Part:
    if not s.has("weight"):
        return s.part
    plain = s.part.plain
    groups, transposed = plain["groups"], plain["transposed"]
    for dim in range(2, len(s.shapes["weight"])):
        s.untouched("weight", dim, "a kernel keeps its size")
    if groups == 1:
        out, into = (1, 0) if transposed else (0, 1)
        s.agree(("weight", out), ("bias", 0))
        return _with_sizes(
            s, in_channels=s.count("weight", into), out_channels=s.count("weight", out)
        )
    left = int(s.whole("weight", 0, groups, "group").sum())
    s.untouched("weight", 1, "a grouped convolution loses whole groups only")
    if s.has("bias") and not torch.equal(
        s.whole("bias", 0, groups, "group"), s.whole("weight", 0, groups, "group")
    ):
        raise s.error("'weight' and 'bias' lose different groups")
    each = {name: plain[name] // groups for name in ("in_channels", "out_channels")}
    return _with_sizes(s, groups=left, **{name: left * size for name, size in each.items()})


def _resize_norm(s: SubmoduleCut) -> Part:
    first = next(name for name in ("weight", "running_mean", "bias") if s.has(name))
    s.agree((first, 0), ("bias", 0), ("running_mean", 0), ("running_var", 0))
    return _with_sizes(s, num_features=s.count(first, 0))


def _resize_group_norm(s: SubmoduleCut) -> Part:
    s.agree(("weight", 0), ("bias", 0))
    groups = int(s.whole("weight", 0, s.part.plain["num_groups"], "group").sum())
    return _with_sizes(s, num_groups=groups, num_channels=s.count("weight", 0))


def _resize_layer_norm(s: SubmoduleCut) -> Part:
    raise s.error(
        "it normalises over what would be removed, so that all that is left would change"
    )


def _resize_rms_norm(s: SubmoduleCut) -> Part:
    if len(s.shapes["weight"]) != 1:
        raise s.error("it normalises over several dimensions at once")
    eps: float | None = s.part.plain["eps"]
    eps = torch.finfo(s.dtypes["weight"]).eps if eps is None else eps
    left = s.count("weight", 0)
    # The mean square over what is left is larger by N / N', the closed units being zero.
    return replace(
        s.part, plain=s.part.plain | {"eps": eps * len(s.of("weight", 0)) / left}
    ).with_attribute("normalized_shape", (left,))


def rescaling(cut: SubmoduleCut) -> dict[str, float]:
    """Factors of the module's tensors that make up for the slices it loses, by their names in it."""
    if cut.kept and _RMS_NORM is not None and issubclass(cut.part.kind, _RMS_NORM):
        kept = cut.of("weight", 0)
        return {"weight": (len(kept) / int(kept.sum())) ** 0.5}
    return {}


def _resize_embedding(s: SubmoduleCut) -> Part:
    s.untouched("weight", 0, "its indices would then mean other rows")
    return _with_sizes(s, embedding_dim=s.count("weight", 1))


def _resize_prelu(s: SubmoduleCut) -> Part:
    return _with_sizes(s, num_parameters=s.count("weight", 0))


def _resize_attention(s: SubmoduleCut) -> Part:
    plain, weights = s.part.plain, "in_proj_weight"
    heads: int = plain["num_heads"]
    if not s.has(weights) or s.has("bias_k") or plain["add_zero_attn"]:
        raise s.error(
            "only attention with one packed projection, without bias_k, bias_v and add_zero_attn, "
            "can lose heads"
        )
    s.untouched(weights, 1, "its inputs' width is that of a residual stream")
    s.agree((weights, 0), ("in_proj_bias", 0))
    each = s.whole(weights, 0, 3 * heads, "head").reshape(3, heads)
    if not (torch.equal(each[0], each[1]) and torch.equal(each[0], each[2])):
        raise s.error("queries, keys and values lose different heads")
    left = int(each[0].sum())
    head_dim = s.shapes[weights][1] // heads
    # The last is what torch's encoder layer looks at before it would read the packed weights by
    # itself.
    changed = {"num_heads": left, "head_dim": head_dim, "_qkv_same_embed_dim": False}
    return replace(s.part, kind=FewerHeads, plain=plain | changed)


def _resize_recurrent(s: SubmoduleCut) -> Part:
    plain = s.part.plain
    tiles = {"LSTM": 4, "GRU": 3}.get(plain["mode"], 1)
    count = plain["num_layers"] * (2 if plain["bidirectional"] else 1)
    projected = plain["proj_size"] > 0
    widths: list[int] = []
    projections: list[int] = []
    for number in range(count):
        ih, hh, *others = recurrent_names(number, plain["bidirectional"], plain["bias"], projected)
        rows = _tile(s, ih, tiles)
        for name in (hh, *(n for n in others if n.startswith("bias"))):
            if not torch.equal(_tile(s, name, tiles), rows):
                raise s.error(f"{ih!r} and {name!r} lose different units")
        back = s.of(others[-1], 1) if projected else s.of(hh, 1)
        if not torch.equal(back, rows):
            raise s.error(
                f"the rows of {ih!r} and the columns that read its units lose different units"
            )
        if projected:
            s.agree((others[-1], 0), (hh, 1))
        widths.append(int(rows.sum()))
        projections.append(s.count(others[-1], 0) if projected else 0)
    changed: dict[str, Any] = {"input_size": s.count("weight_ih_l0", 1)}
    if len(set(widths)) == 1 and len(set(projections)) == 1 and widths != projections:
        return replace(
            s.part, plain=plain | changed | {"hidden_size": widths[0], "proj_size": projections[0]}
        )
    changed |= {"hidden_sizes": tuple(widths), "proj_sizes": tuple(projections)}
    return replace(s.part, kind=UnequalRecurrent, plain=plain | changed)


def _resize_cell(s: SubmoduleCut) -> Part:
    size = int(s.part.plain["hidden_size"])
    tiles = s.shapes["weight_ih"][0] // size
    rows = _tile(s, "weight_ih", tiles)
    for name in ("weight_hh", "bias_ih", "bias_hh"):
        if s.has(name) and not torch.equal(_tile(s, name, tiles), rows):
            raise s.error(f"'weight_ih' and {name!r} lose different units")
    if not torch.equal(s.of("weight_hh", 1), rows):
        raise s.error(
            "the rows of 'weight_ih' and the columns of 'weight_hh' lose different units"
        )
    return _with_sizes(s, input_size=s.count("weight_ih", 1), hidden_size=int(rows.sum()))


def _tile(s: SubmoduleCut, name: str, tiles: int) -> Tensor:
    kept = s.of(name, 0).reshape(tiles, -1)
    if not torch.equal(kept, kept[:1].expand_as(kept)):
        raise s.error(
            f"{name!r} loses different units in its {tiles} tiles; l0func.tiles(0, {tiles}) names "
            f"all of a unit's"
        )
    return kept[0]


# torch 2.4 was the first to have one.
_RMS_NORM: type[nn.Module] | None = getattr(nn, "RMSNorm", None)

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_CHANNEL_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
RESIZERS: dict[type[nn.Module], Callable[[SubmoduleCut], Part]] = {
    nn.Linear: _resize_linear,
    **dict.fromkeys(_CONVOLUTIONS, _resize_conv),
    **dict.fromkeys(_CHANNEL_NORMS, _resize_norm),
    nn.GroupNorm: _resize_group_norm,
    nn.LayerNorm: _resize_layer_norm,
    **({} if _RMS_NORM is None else {_RMS_NORM: _resize_rms_norm}),
    nn.Embedding: _resize_embedding,
    nn.EmbeddingBag: _resize_embedding,
    nn.PReLU: _resize_prelu,
    nn.MultiheadAttention: _resize_attention,
    nn.RNNBase: _resize_recurrent,
    nn.RNNCellBase: _resize_cell,
}
