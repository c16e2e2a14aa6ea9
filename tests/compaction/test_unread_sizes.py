"""Sizes that modules and configs keep and forward does not read: they follow, or they stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from full_sized import built, inputs_of
from torch import Tensor, nn

import l0func as l0


def without_units(module: nn.Module, inputs: dict[str, Any], closed: dict[str, int]) -> nn.Module:
    """The module with so many units less in the groups whose names end so."""
    fn, params, buffers = l0.make_functional(module)
    groups = l0.unit_groups(module, **inputs)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    gates = {name: torch.full((size,), 4.0) for name, size in groups.sizes.items()}
    for ending, count in closed.items():
        found = [name for name in groups if name.endswith(ending)]
        assert found, (ending, list(groups))
        for name in found:
            gates[name][:count] = -4.0
    return l0.to_module(*l0.compact(fn, params, gates, buffers, spec))


def test_head_counts_and_widths_of_bert_follow_and_its_config_stays_whole():
    pytest.importorskip("transformers")
    module = built("bert")
    small = without_units(module, inputs_of("bert"), {"query": 2})
    attention = small.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.all_head_size) == (2, 16)
    assert attention.attention_head_size == 8
    # BERT derives the heads' size from these two: with fewer heads it would be another one.
    assert (small.config.num_attention_heads, small.config.hidden_size) == (4, 32)


@pytest.mark.parametrize("uniform", [True, False])
def test_a_shared_config_changes_only_where_all_layers_agree(uniform):
    transformers = pytest.importorskip("transformers")
    module = built("llama")
    before = module.config.to_dict()
    closed = {"gate_proj" if uniform else "0.mlp.gate_proj": 18}
    closed["q_proj" if uniform else "0.self_attn.q_proj"] = 1
    small = without_units(module, inputs_of("llama"), closed)
    config = small.config
    assert small.model.layers[0].mlp.intermediate_size == 30
    expected = (30, 2, 1) if uniform else (48, 4, 2)
    found = (config.intermediate_size, config.num_attention_heads, config.num_key_value_heads)
    assert found == expected
    assert module.config.to_dict() == before
    if uniform:
        again = transformers.LlamaForCausalLM(config).eval()
        again.load_state_dict(small.state_dict())
        inputs = inputs_of("llama")
        assert torch.equal(again(**inputs)[0], small(**inputs)[0])


def test_features_of_a_lora_wrapper_follow_its_layer():
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3))
    config = peft.LoraConfig(r=4, target_modules=["0", "2"], init_lora_weights=False)
    module = peft.inject_adapter_in_model(config, model).eval()
    inputs = {"input": torch.randn(4, 5)}
    sizes = l0.unit_groups(module, **inputs).sizes
    (hidden,) = [name for name, size in sizes.items() if size == 9]
    small = without_units(module, inputs, {hidden: 3})
    assert (small[0].in_features, small[0].out_features) == (5, 6)
    assert (small[2].in_features, small[2].out_features) == (6, 3)


class Numbers(nn.Module):
    """Numbers that equal a width and mean something else, or a width that has two meanings."""

    def __init__(self) -> None:
        super().__init__()
        self.max_length = self.num_buckets = self.vocab_size = self.seed = 8
        self.hidden, self.outer = 8, 6
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


def test_numbers_that_mean_something_else_stay():
    small = without_units(Numbers().eval(), {"x": torch.randn(4, 6)}, {"a": 3})
    assert (small.max_length, small.num_buckets, small.vocab_size, small.seed) == (8,) * 4
    assert (small.hidden, small.outer) == (5, 6)


class Square(nn.Module):
    """A hidden layer as wide as its input: the number 6 may mean either."""

    def __init__(self) -> None:
        super().__init__()
        self.size, self.a, self.b = 6, nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


def test_a_number_with_two_meanings_stays():
    small = without_units(Square().eval(), {"x": torch.randn(4, 6)}, {"a": 2})
    assert (small.a.out_features, small.size) == (4, 6)
