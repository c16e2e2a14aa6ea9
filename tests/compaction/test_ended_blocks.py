"""Blocks whose units all close: they go where they are added to a stream, and only there."""

from __future__ import annotations

import pytest
import torch
from full_sized import Residual, built, inputs_of
from torch import Tensor, nn

import l0func as l0
from l0func.smaller import Constant

# prune says so too; here it is meant.
pytestmark = pytest.mark.filterwarnings("ignore:All gates of")


class Block(nn.Module):
    """A hidden layer that meets the stream in one of several ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(12 if kind == "cat" else 6, 3)
        self.norm = nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 5), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(self.up(self.norm(x)).relu())
        if self.kind == "sum":
            x = x + y
        elif self.kind == "in place":
            y += x
            x = y
        elif self.kind == "difference":
            x = x - 0.5 * y
        elif self.kind == "product":
            x = x * y
        elif self.kind == "cat":
            x = torch.cat([x, y], -1)
        elif self.kind == "chain":
            x = y
        return self.head(x.tanh())


def closed(module: nn.Module, inputs: dict, group: str, **options) -> tuple[nn.Module, Tensor]:
    """The module without all units of one group; and the pruned network's output."""
    module = module.eval()
    fn, params, buffers = l0.make_functional(module)
    params = {path: p + 0.2 * torch.randn_like(p) for path, p in params.items()}
    groups = l0.unit_groups(module, **inputs)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    gates = {name: torch.full((size,), 4.0) for name, size in groups.sizes.items()}
    gates[group].fill_(-4.0)
    expected = fn(l0.prune(params, gates, spec), buffers, **inputs)
    small = l0.compact(fn, params, gates, buffers, spec, **options)
    return l0.to_module(*small), expected


@pytest.mark.parametrize("empty", [None, "remove"])
@pytest.mark.parametrize("kind", ["sum", "in place", "difference"])
def test_a_block_that_is_added_goes_and_its_bias_stays(kind, empty):
    torch.manual_seed(0)
    inputs = {"x": torch.randn(7, 4)}
    small, expected = closed(Block(kind), inputs, "up", example_inputs=inputs, empty=empty)
    torch.testing.assert_close(small(**inputs), expected)
    assert (type(small.up), type(small.down)) == (Constant, Constant)
    assert small.up.weight.numel() == small.down.weight.numel() == 0
    other = torch.randn(2, 3, 4)
    assert small(other).shape == (2, 3, 3)
    assert bool(small.down.bias.any())


@pytest.mark.parametrize("empty", [None, "remove"])
@pytest.mark.parametrize("kind", ["product", "cat", "chain"])
def test_elsewhere_the_error_is_as_before(kind, empty):
    torch.manual_seed(0)
    inputs = {"x": torch.randn(7, 4)}
    with pytest.raises(ValueError, match=r"All 5 units of 'up' are closed.*not added to a stream"):
        closed(Block(kind), inputs, "up", example_inputs=inputs, empty=empty)


def test_without_examples_nothing_shows_a_stream():
    inputs = {"x": torch.randn(7, 4)}
    with pytest.raises(ValueError, match=r"All 5 units.*With example_inputs, a block"):
        closed(Block("sum"), inputs, "up")
    with pytest.raises(ValueError, match=r"empty='remove' needs example_inputs"):
        closed(Block("sum"), inputs, "up", empty="remove")
    with pytest.raises(ValueError, match=r"All 5 units"):
        closed(Block("sum"), inputs, "up", example_inputs=inputs, empty="raise")
    with pytest.raises(ValueError, match=r"'raise', 'constant', 'remove' or None; got 'gone'"):
        closed(Block("sum"), inputs, "up", empty="gone")


def test_a_residual_block_with_batch_norm_adds_its_constant_at_every_size():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 1), Residual()).eval()
    for norm in (module[1].bn1, module[1].bn2):
        norm.running_mean.normal_()
        norm.bias.data.normal_()
    inputs = {"input": torch.randn(2, 3, 7, 5)}
    small, expected = closed(module, inputs, "1.conv1", example_inputs=inputs)
    torch.testing.assert_close(small(**inputs), expected)
    assert isinstance(small[1].conv2, Constant)
    assert small(torch.randn(3, 3, 4, 4)).shape == (3, 6, 4, 4)


CONVOLUTIONS: dict[str, nn.Module] = {
    "padded": nn.Conv2d(2, 3, (3, 5), padding=(1, 2), stride=(2, 1)),
    "same": nn.Conv2d(2, 3, 4, padding="same", dilation=2),
    "valid": nn.Conv2d(2, 3, 2, padding="valid", bias=False),
    "reflected": nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
    "line": nn.Conv1d(2, 3, 3, stride=2, padding=3, dilation=2),
    "depthwise": nn.Conv2d(2, 4, 3, groups=2),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_constant_has_the_output_of_a_convolution_with_zero_weights(kind):
    from l0func.compaction.constants import with_constants

    layer = CONVOLUTIONS[kind]
    layer.weight.data.zero_()
    size = (9,) if kind == "line" else (9, 8)
    made = l0.to_module(*with_constants(l0.make_functional(layer), ["weight"]))
    assert isinstance(made, Constant)
    for shape in ((4, 2, *size), (2, *size), (4, 2, *(s + 3 for s in size))):
        x = torch.randn(shape)
        assert torch.equal(made(x), layer(x))


@pytest.mark.parametrize("group", ["self_attn", "linear1"])
def test_an_encoder_layer_runs_and_trains_without_its_block(group):
    torch.manual_seed(0)
    inputs = inputs_of("encoder")
    small, expected = closed(built("encoder"), inputs, group, example_inputs=inputs)
    assert any(isinstance(child, Constant) for child in small.modules())
    torch.testing.assert_close(small(**inputs), expected)
    with torch.no_grad():
        torch.testing.assert_close(small(**inputs), expected)
    small(**inputs).sum().backward()
    assert small.linear2.bias.grad is not None


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_compiling"), reason="torch 2.1 exports by another interface"
)
@pytest.mark.parametrize("name", ["encoder", "resnet"])
def test_a_network_without_a_block_goes_through_torch_export(name):
    torch.manual_seed(0)
    inputs = inputs_of(name)
    group = {"encoder": "linear1", "resnet": "1.conv1"}[name]
    small, expected = closed(built(name), inputs, group, example_inputs=inputs)
    exported = torch.export.export(small, tuple(inputs.values()))
    torch.testing.assert_close(exported.module()(*inputs.values()), expected)


@pytest.mark.parametrize("part", ["mlp", "self_attn"])
def test_a_causal_language_model_generates_the_same_without_a_block(part):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    inputs = inputs_of("llama")
    group = {"mlp": "model.layers.0.mlp.gate_proj", "self_attn": "model.layers.0.self_attn.q_proj"}
    small, expected = closed(built("llama"), inputs, group[part], example_inputs=inputs)
    torch.testing.assert_close(small(**inputs)[0], expected[0])
    tokens = inputs["input_ids"]
    ways = [
        small.generate(tokens, max_new_tokens=5, do_sample=False, use_cache=c)
        for c in (False, True)
    ]
    assert torch.equal(*ways)
