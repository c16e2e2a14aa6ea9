"""What is refused comes with a reason, and with what a user could do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import l0func as l0
from l0func.compaction import advice
from l0func.compaction.advice import with_advice
from l0func.tracing.units import OUTPUT_REASON

SOURCES = Path(l0.__file__).parent


def reasons() -> list[str]:
    """The texts in the sources that are reasons to keep units."""
    found: list[str] = []
    for folder in ("tracing", "compaction"):
        for path in sorted((SOURCES / folder).rglob("*.py")):
            text = path.read_text()
            found += re.findall(r'f?"((?:they|all units of) [^"]+)"', text)
            found += re.findall(r'reason = f?"([^"]+ (?:runs over them|units))"', text)
    return found


def test_every_reason_in_the_sources_has_advice():
    texts = [
        text for text in reasons() if text not in (OUTPUT_REASON, "they go through {operation}")
    ]
    assert len(texts) > 8
    assert [text for text in texts if with_advice(text) == text] == []


class Mixed(nn.Module):
    """A hidden layer between operations by name."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = operation
        self.a, self.norm, self.b = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.free = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.operation == "norm":
            y = self.norm(y)
        elif self.operation == "softmax":
            y = y.softmax(-1)
        elif self.operation == "unknown":
            y = y @ torch.linalg.inv(torch.eye(6, dtype=y.dtype) + y.T @ y)
        elif self.operation == "fixed":
            y = y.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6)
        return self.b(y) + self.free(x)


ADVICE = {
    "norm": "'native_layer_norm', runs over them; units can go under an nn.RMSNorm",
    "softmax": "'_softmax' runs over them; units can go behind one more linear layer",
    "unknown": "which cannot be followed.*; use operations that can",
    "fixed": "; .*",
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_an_empty_layer_is_the_reason_and_not_a_shape():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 0), nn.Linear(0, 3))
    with pytest.raises(ValueError, match=r"'2\.weight' has no entries; take the empty layer out"):
        l0.unit_groups(net, torch.ones(2, 4))


@pytest.mark.parametrize("operation", ADVICE)
def test_a_refusal_says_why_and_what_to_do(operation):
    groups = l0.unit_groups(Mixed(operation), torch.randn(3, 4))
    assert groups.sizes["free.0"] == 5
    refused = groups.refused["a.weight"]
    assert re.search(ADVICE[operation], refused)
    assert f"stays a.weight: {refused}" in repr(groups)


def test_where_no_unit_can_go_every_reason_is_in_the_error():
    with pytest.raises(ValueError, match=r"runs over them; units can go under an nn\.RMSNorm"):
        l0.unit_groups(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), torch.randn(3, 4))


@pytest.mark.parametrize("name", ["Bloom", "Mpt"])
def test_heads_whose_alibi_slopes_follow_from_their_number_stay_and_the_reason_says_so(name):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "n_layer": 1, "n_head": 4}
    if name == "Mpt":
        sizes = {"d_model": 16, "n_layers": 1, "n_heads": 4, "max_seq_len": 16}
    config = getattr(transformers, f"{name}Config")(vocab_size=50, **sizes)
    net = getattr(transformers, f"{name}Model")(config).eval()
    groups = l0.unit_groups(net, torch.arange(12).reshape(2, 6), use_cache=False)
    (refused,) = (why for path, why in groups.refused.items() if "att" in path)
    assert re.search(r"a trial .*; if they are heads: .*ALiBi slopes from the number of", refused)
    assert "keep the slopes in a buffer" in refused
    assert list(groups.sizes.values()) == [64]


class Sloped(nn.Module):
    """Attention of two features for each head, with a slope for each head in a buffer or not."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.q, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("alibi", self.slopes(4) if kept else None)

    def slopes(self, heads: int) -> Tensor:
        return 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (-1, 2)).transpose(1, 2)
        slopes = self.slopes(q.shape[1]) if self.alibi is None else self.alibi
        places = torch.arange(x.shape[1], dtype=x.dtype)
        bias = slopes[:, None, None].to(x) * (places - places[:, None])
        weights = (q @ q.mT + bias).softmax(-1)
        return self.out((weights @ q).transpose(1, 2).flatten(-2))


def test_heads_with_their_slopes_in_a_buffer_go_as_the_advice_says():
    x = torch.rand(2, 5, 4)
    assert l0.unit_groups(Sloped(kept=True), x).sizes == {"q": 4}
    with pytest.raises(ValueError, match="ALiBi slopes from the number of heads"):
        l0.unit_groups(Sloped(kept=False), x)


def test_no_advice_is_dead():
    sources = "".join(
        path.read_text() for path in SOURCES.rglob("*.py") if path.name != "advice.py"
    )
    assert [phrase for phrase in advice.ADVICE if phrase not in sources] == []


def test_the_deepest_reason_is_named():
    # One more layer would read the output; the norm would keep its units all the same.
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 6), nn.LayerNorm(6))
    refused = l0.unit_groups(net, torch.randn(3, 4)).refused["2.weight"]
    assert "'native_layer_norm', runs over them" in refused


@pytest.mark.parametrize(
    ("net", "words"),
    [(nn.ReLU(), r"It has no parameters\."), (nn.Linear(4, 3), "'weight': they are an output")],
)
def test_nothing_to_remove_has_a_sentence_too(net, words):
    with pytest.raises(ValueError, match=f"No units of this .* can be removed. {words}"):
        l0.unit_groups(net, torch.randn(3, 4))


class Rolled(nn.Module):
    """Units that meet others, some places away."""

    def __init__(self, places, between: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.places = nn.Linear(4, 8), nn.Linear(8, 3), places
        self.free = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        self.between = nn.Linear(8, 8) if between else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.between(self.a(x))
        return self.b(h * self.places(h)) + self.free(x)


def test_units_that_a_roll_moves_are_kept_by_the_roll_and_not_by_a_size():
    for places in (lambda h: h.roll(6, -1), lambda h: torch.roll(h, 2, 1), lambda h: h.roll(2)):
        refused = l0.unit_groups(Rolled(places), torch.randn(3, 4)).refused["a.weight"]
        assert "outputs differ from the gated network's, and 'roll' moves them" in refused
        assert "read the sizes" not in refused


def test_a_roll_along_another_dimension_is_not_the_reason():
    groups = l0.unit_groups(Rolled(lambda h: h.roll(1, 0)), torch.randn(3, 4))
    assert groups.sizes == {"a": 8, "free.0": 5}
    groups = l0.unit_groups(Rolled(lambda h: h.roll(1, 0) * (8 / h.shape[-1])), torch.randn(3, 4))
    refused = groups.refused["a.weight"]
    assert "outputs differ" in refused
    assert "'roll'" not in refused


def test_a_roll_goes_as_the_advice_says():
    x = torch.randn(3, 4)
    share = l0.unit_groups(Rolled(lambda h: h.roll(h.shape[-1] * 3 // 4, -1)), x)
    assert share.sizes["a"] == 2
    assert l0.unit_groups(Rolled(lambda h: h.roll(6, -1), between=True), x).sizes["a"] == 8
