"""Heads of transformers' own networks: found, with the attributes that count them, and exact."""

from __future__ import annotations

import pytest
import torch
from cut_modules import wrong_removals
from sampled import one_in, sampled
from torch import nn

import l0func as l0
from l0func.compaction.trial import Trial

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TOKENS = torch.arange(10, 26).view(2, 8)
# All sizes are powers of two, so that many numbers could count the heads.
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "vocab_size": 64,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"n_layer": 4, "n_head": 4, "n_embd": 16, "vocab_size": 64, "n_positions": 32}


class FirstOutput(nn.Module):
    """A network that returns its hidden states alone."""

    def __init__(self, name: str, **sizes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(attn_implementation="eager", **sizes)
        self.model = getattr(transformers, f"{name}Model")(config)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens, use_cache=False)[0]


NETWORKS = {
    "GPT-2": ("GPT2", GPT2, {"attn.c_attn.nf": 12, "attn.split_size": 4}),
    "Phi-3": (
        "Phi3",
        {**SIZES, "num_key_value_heads": 2},
        {"self_attn.config.num_attention_heads": 2, "self_attn.num_key_value_heads": 1},
    ),
    "Phi-3 with a key for each query": (
        "Phi3",
        {**SIZES, "num_key_value_heads": 4},
        {"self_attn.config.num_attention_heads": 1, "self_attn.num_key_value_heads": 1},
    ),
}
BLOCKS = {"GPT2": "model.h.", "Phi3": "model.layers."}


@pytest.mark.parametrize("network", sampled(NETWORKS, one_in(3)))
def test_every_blocks_heads_are_found_with_the_attributes_that_count_them(network, monkeypatch):
    name, sizes, attrs = NETWORKS[network]
    module = FirstOutput(name, **sizes).eval()
    tries: list[int] = []
    failure = Trial.failure

    def counted(trial, groups):
        tries.append(len(groups))
        return failure(trial, groups)

    monkeypatch.setattr(Trial, "failure", counted)
    groups = l0.unit_groups(module, TOKENS)
    for block in range(4):
        prefix = f"{BLOCKS[name]}{block}."
        expected = {prefix + path: each for path, each in attrs.items()}
        assert expected in [group.attrs for group in groups.values()]
    assert len(groups) == 8
    assert len(tries) <= 40
    assert wrong_removals(module, (TOKENS,), groups, draws=3) == []


def test_groups_of_a_wrapped_network_fit_the_network_itself():
    wrapper = FirstOutput("Phi3", **SIZES, num_key_value_heads=2).eval()
    found = l0.unit_groups(wrapper, TOKENS)
    groups = found.under("model.")
    assert len(groups) == len(found)
    fn, params, buffers = l0.make_functional(wrapper.model)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    torch.manual_seed(1)
    gates = {}
    for gate in spec.gates:
        gates[gate.name] = torch.where(torch.arange(gate.shape[0]) % 2 == 0, 9.0, -9.0)
    small = l0.compact(fn, params, gates, buffers, spec)
    pruned = l0.prune(params, gates, spec)
    expected = torch.func.functional_call(wrapper.model, pruned, (TOKENS,), {"use_cache": False})
    output = small.fn(small.params, small.buffers, TOKENS, use_cache=False)
    torch.testing.assert_close(output[0], expected[0])
