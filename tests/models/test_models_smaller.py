"""Real networks made smaller: units found on a tokenizer's inputs, compacted, and generating."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampled import among, one_in, sampled
from tiny_models import NETWORKS, PAIRS, assert_same, build, inputs_of, tokens, transformers
from torch.func import functional_call

import l0func as l0

GENERATORS = [name for name, (kind, _, _) in NETWORKS.items() if "LM" in kind or name in PAIRS]


def closing_a_third(sizes: Any) -> dict[str, torch.Tensor]:
    """Gates that close every third unit of each group."""
    return {name: torch.where(torch.arange(n) % 3 == 1, -9.0, 4.0) for name, n in sizes.items()}


def count_of(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def examples_of(name: str) -> dict[str, Any]:
    """The inputs without a cache, whose keys and values would be outputs and stay."""
    cached = name in GENERATORS
    return {**inputs_of(name), "use_cache": False} if cached else inputs_of(name)


@pytest.mark.parametrize("name", sampled(NETWORKS, one_in(6)))
def test_units_go_exactly_and_the_smaller_network_generates_the_same(name: str):
    net, examples = build(name), examples_of(name)
    groups = l0.unit_groups(net, examples)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    gates = closing_a_third(groups.sizes)
    small = l0.to_module(*l0.compact(fn, params, gates, buffers, spec, example_inputs=examples))
    pruned = l0.prune(params, gates, spec)
    assert_same(small(**examples), functional_call(net, pruned, (), examples))
    assert sum(p.numel() for p in small.parameters()) < 0.95 * sum(
        map(torch.numel, net.parameters())
    )
    assert str(l0.summary(params, gates, spec))
    if name in GENERATORS:
        _check_generates_alike(name, small, pruned)


def _check_generates_alike(name: str, small: Any, pruned: Any) -> None:
    dense = build(name)
    dense.load_state_dict(pruned, strict=False)
    inputs = {k: x for k, x in inputs_of(name).items() if not k.startswith("decoder")}
    for settings in ({"num_beams": 2}, {"use_cache": False}):
        wanted = {"max_new_tokens": 3, "do_sample": False, **settings}
        assert torch.equal(small.generate(**inputs, **wanted), dense.generate(**inputs, **wanted))


@pytest.mark.parametrize("name", ["Llama", "MiniLM", "ViT"])
def test_heads_and_feed_forward_units_are_found(name: str):
    sizes = set(l0.unit_groups(build(name), examples_of(name)).sizes.values())
    assert {48} < sizes
    assert sizes & {2, 4}


def test_a_tokenizer_s_batch_is_read_as_keyword_inputs():
    net, batch = build("MiniLM"), transformers.BatchEncoding(inputs_of("MiniLM"))
    by_name = l0.unit_groups(net, **inputs_of("MiniLM")).sizes
    assert l0.unit_groups(net, batch).sizes == by_name
    assert l0.unit_groups(net, **batch).sizes == by_name
    assert l0.unit_groups(net, batch["input_ids"], batch["attention_mask"]).sizes == by_name


def test_heads_whose_keys_a_cache_returns_stay():
    with_cache = l0.unit_groups(build("Llama"), {**inputs_of("Llama"), "use_cache": True})
    assert set(with_cache.sizes.values()) == {32, 48}
    reason = with_cache.refused["model.layers.0.self_attn.q_proj.weight"]
    assert reason.startswith("they are an output of the module, output['cache']")


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_units_are_found_behind_a_cache_that_is_an_input(kind: str):
    net = build("Llama")
    cache = transformers.DynamicCache()
    if kind == "static":
        cache = transformers.StaticCache(config=net.config, max_cache_len=8)
    with torch.no_grad():
        net(tokens(4), cache=cache, use_cache=True)
    groups = l0.unit_groups(net, input_ids=tokens(2, seed=5), cache=cache)
    assert 48 in groups.sizes.values()
    assert int(cache.get_seq_length()) == 4


@pytest.mark.parametrize(
    "name",
    sampled(["MiniLM", "Llama", "T5's encoder", "T5", "BART"], among("MiniLM", "T5's encoder")),
)
def test_every_road_through_attention_has_the_same_units(name: str):
    eager = l0.unit_groups(build(name, attn_implementation="eager"), examples_of(name))
    fused = l0.unit_groups(build(name, attn_implementation="sdpa"), examples_of(name))
    assert eager.sizes == fused.sizes


def test_a_mask_of_floats_is_refused_with_the_line_of_the_source_and_the_way_out():
    inputs = inputs_of("MiniLM")
    inputs["attention_mask"] = inputs["attention_mask"].float()
    with pytest.raises(ValueError, match=r"masking_utils\.py:\d+.*integer and boolean inputs"):
        l0.unit_groups(build("MiniLM"), inputs)


@pytest.mark.filterwarnings("ignore")
def test_attention_that_no_trace_can_follow_is_refused_with_the_settings_that_can():
    net = build("Llama", attn_implementation="flex_attention")
    with pytest.raises(ValueError, match=r"'flex_attention'.*attn_implementation='sdpa' or"):
        l0.unit_groups(net, examples_of("Llama"))


def test_removal_does_not_depend_on_the_padding_of_the_examples():
    net, full = build("BERT"), inputs_of("BERT")
    full["attention_mask"] = torch.ones_like(full["attention_mask"])
    assert l0.unit_groups(net, full).sizes == l0.unit_groups(net, inputs_of("BERT")).sizes


@pytest.mark.parametrize("road", sampled(["eager", "sdpa"], among("sdpa")))
def test_heads_under_a_bias_that_layers_share_go_from_all_of_them(road: str):
    net, examples = build("T5", attn_implementation=road), examples_of("T5")
    sizes = l0.unit_groups(net, examples).sizes
    assert sizes["encoder.block.0.layer.0.SelfAttention.q"] == 4
    assert sizes["decoder.block.0.layer.0.SelfAttention.q"] == 4
    assert sizes["decoder.block.0.layer.1.EncDecAttention.q"] == 4
    whole = {name: value for name, value in examples.items() if name != "attention_mask"}
    assert l0.unit_groups(net, whole).sizes == sizes


@pytest.mark.parametrize("name", ["DeBERTa", "DeBERTa v2"])
def test_heads_with_relative_positions_and_the_positions_own_units_go(name: str):
    sizes = l0.unit_groups(build(name), examples_of(name)).sizes
    assert sizes["deberta.encoder.rel_embeddings"] == 32
    assert list(sizes.values()).count(4) == 2


@pytest.mark.parametrize(
    ("name", "heads"), [("GPT-NeoX", 4), ("Falcon", 4), ("grouped Falcon", 2)]
)
def test_heads_in_a_fused_projection_are_found(name: str, heads: int):
    sizes = l0.unit_groups(build(name), examples_of(name)).sizes
    found = [n for path, n in sizes.items() if path.endswith("query_key_value")]
    assert found == [heads, heads]
