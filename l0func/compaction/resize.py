"""A submodule of other sizes: which attributes follow from the slices that its tensors keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from l0func.pure.part import Part
from l0func.smaller import FewerHeads, UnequalRecurrent, recurrent_names

Kept = Mapping[int, Tensor]
"""For dimensions of a tensor that lose slices, which are kept: bool, as long as the dimension."""


class Slimming:
    """One submodule and the slices that its tensors keep.

    Args:
        path: Of the module.
        part: The module without its tensors.
        tensors: Its own, by their names in it.
        kept: For tensors that lose slices.
    """

    def __init__(
        self, path: str, part: Part, tensors: Mapping[str, Tensor], kept: Mapping[str, Kept]
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


def resize(slimming: Slimming) -> Part:
    """The submodule without its tensors, its sizes those of the slices that are kept.

    Raises:
        ValueError: The kept slices contradict each other, or the module cannot do without some.
    """
    if not slimming.kept:
        return slimming.part
    for kind, rule in RULES.items():
        if issubclass(slimming.part.kind, kind):
            return rule(slimming)
    return slimming.part


def _attributes(slimming: Slimming, **sizes: int) -> Part:
    return replace(slimming.part, plain=slimming.part.plain | sizes)


def _linear(s: Slimming) -> Part:
    if not s.has("weight"):
        # Its weight is computed, by a parametrization for instance, from tensors of modules below.
        return s.part
    s.agree(("weight", 0), ("bias", 0))
    return _attributes(s, in_features=s.count("weight", 1), out_features=s.count("weight", 0))


def _conv(s: Slimming) -> Part:
    if not s.has("weight"):
        return s.part
    plain = s.part.plain
    groups, transposed = plain["groups"], plain["transposed"]
    for dim in range(2, len(s.shapes["weight"])):
        s.untouched("weight", dim, "a kernel keeps its size")
    if groups == 1:
        out, into = (1, 0) if transposed else (0, 1)
        s.agree(("weight", out), ("bias", 0))
        return _attributes(
            s, in_channels=s.count("weight", into), out_channels=s.count("weight", out)
        )
    left = int(s.whole("weight", 0, groups, "group").sum())
    s.untouched("weight", 1, "a grouped convolution loses whole groups only")
    if s.has("bias") and not torch.equal(
        s.whole("bias", 0, groups, "group"), s.whole("weight", 0, groups, "group")
    ):
        raise s.error("'weight' and 'bias' lose different groups")
    each = {name: plain[name] // groups for name in ("in_channels", "out_channels")}
    return _attributes(s, groups=left, **{name: left * size for name, size in each.items()})


def _norm(s: Slimming) -> Part:
    first = next(name for name in ("weight", "running_mean", "bias") if s.has(name))
    s.agree((first, 0), ("bias", 0), ("running_mean", 0), ("running_var", 0))
    return _attributes(s, num_features=s.count(first, 0))


def _group_norm(s: Slimming) -> Part:
    s.agree(("weight", 0), ("bias", 0))
    groups = int(s.whole("weight", 0, s.part.plain["num_groups"], "group").sum())
    return _attributes(s, num_groups=groups, num_channels=s.count("weight", 0))


def _layer_norm(s: Slimming) -> Part:
    raise s.error(
        "it normalises over what would be removed, so that all that is left would change"
    )


def _rms_norm(s: Slimming) -> Part:
    if len(s.shapes["weight"]) != 1:
        raise s.error("it normalises over several dimensions at once")
    eps: float | None = s.part.plain["eps"]
    eps = torch.finfo(s.dtypes["weight"]).eps if eps is None else eps
    left = s.count("weight", 0)
    # The mean square over what is left is larger by N / N', the closed units being zero.
    return replace(
        s.part, plain=s.part.plain | {"eps": eps * len(s.of("weight", 0)) / left}
    ).with_attribute("normalized_shape", (left,))


def rescaling(slimming: Slimming) -> dict[str, float]:
    """Factors of the module's tensors that make up for the slices it loses, by their names in it."""
    if slimming.kept and _RMS_NORM is not None and issubclass(slimming.part.kind, _RMS_NORM):
        kept = slimming.of("weight", 0)
        return {"weight": (len(kept) / int(kept.sum())) ** 0.5}
    return {}


def _embedding(s: Slimming) -> Part:
    s.untouched("weight", 0, "its indices would then mean other rows")
    return _attributes(s, embedding_dim=s.count("weight", 1))


def _prelu(s: Slimming) -> Part:
    return _attributes(s, num_parameters=s.count("weight", 0))


def _attention(s: Slimming) -> Part:
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


def _recurrent(s: Slimming) -> Part:
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


def _cell(s: Slimming) -> Part:
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
    return _attributes(s, input_size=s.count("weight_ih", 1), hidden_size=int(rows.sum()))


def _tile(s: Slimming, name: str, tiles: int) -> Tensor:
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
RULES: dict[type[nn.Module], Callable[[Slimming], Part]] = {
    nn.Linear: _linear,
    **dict.fromkeys(_CONVOLUTIONS, _conv),
    **dict.fromkeys(_CHANNEL_NORMS, _norm),
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    **({} if _RMS_NORM is None else {_RMS_NORM: _rms_norm}),
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    nn.PReLU: _prelu,
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
}
