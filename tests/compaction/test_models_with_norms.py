"""Language models of transformers in tiny sizes: streams under RMSNorm and normed heads go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device import seeded_generator
from torch import Tensor, nn
from torch.func import functional_call

import l0func as l0

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 33,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class Classifier(nn.Module):
    """A model under a linear head; eps is large, so that a wrong one shows."""

    def __init__(self, name: str, **sizes: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**{**SIZES, "rms_norm_eps": 0.1, **sizes})
        self.model = getattr(transformers, f"{name}Model")(config)
        self.head = nn.Linear(16, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.model(input_ids=ids, use_cache=False)[0])


IDS = torch.arange(10).reshape(2, 5) * 7 % 30 + 3
HEADS = {f"model.layers.{i}.self_attn.q_proj": 2 for i in range(2)}
HIDDEN = {f"model.layers.{i}.mlp.gate_proj": 20 for i in range(2)}
FOUND = {
    "Llama": {"model.embed_tokens": 16, **HEADS, **HIDDEN},
    "Mistral": {"model.embed_tokens": 16, **HEADS, **HIDDEN},
    "Qwen2": {"model.embed_tokens": 16, **HEADS, **HIDDEN},
    "Qwen3": {"model.embed_tokens": 16, **HEADS, **HIDDEN},
    "Gemma": {"model.embed_tokens": 16, **HEADS, **HIDDEN},
    "Gemma2": {"model.embed_tokens": 16, **HEADS, **HIDDEN},
    "Gemma3Text": {"model.embed_tokens": 16, **HEADS, **HIDDEN},
    "Olmo2": {"model.embed_tokens": 16, **HEADS, **HIDDEN},
}


@pytest.mark.parametrize("name", FOUND)
def test_streams_heads_and_hidden_units_of_a_model_go_exactly(name: str):
    module = Classifier(name).eval()
    groups = l0.unit_groups(module, IDS)
    assert groups.sizes == FOUND[name]
    check_removal(module, (IDS,), groups)


def check_removal(module: nn.Module, inputs: tuple[Tensor, ...], groups: Any) -> None:
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    generator = seeded_generator(0)
    for _ in range(3):
        gates = {}
        for gate in spec.gates:
            values = 4 * torch.rand(gate.shape, generator=generator, dtype=gate.dtype)
            closed = torch.rand(gate.shape, generator=generator) < 0.4
            closed[0] = False
            gates[gate.name] = torch.where(closed, -20.0, values)
        expected = functional_call(module, {**l0.prune(params, gates, spec), **buffers}, inputs)
        small = l0.compact(fn, params, gates, buffers, spec)
        output = small.fn(small.params, small.buffers, *inputs)
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
        macs = [l0.count_macs(*f, *inputs).total for f in ((fn, params, buffers), small)]
        assert macs[1] < macs[0]


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = transformers.T5Config(
            vocab_size=33, d_model=16, d_kv=4, d_ff=20, num_layers=3, num_heads=4
        )
        self.model, self.head = transformers.T5Model(config), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        model = self.model(input_ids=ids, decoder_input_ids=ids, use_cache=False)
        return self.head(model[0])


@pytest.mark.slow
def test_the_layers_of_t5_share_the_bias_of_their_heads():
    module = Translator().eval()
    groups = l0.unit_groups(module, IDS)
    assert groups.sizes["model.shared"] == 16
    heads = {name: size for name, size in groups.sizes.items() if name.endswith(".q")}
    assert heads == {
        "model.encoder.block.0.layer.0.SelfAttention.q": 4,
        "model.decoder.block.0.layer.0.SelfAttention.q": 4,
        "model.decoder.block.0.layer.1.EncDecAttention.q": 4,
    }
    check_removal(module, (IDS,), groups)
