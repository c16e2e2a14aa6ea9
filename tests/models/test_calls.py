"""Real networks as pure functions: masks for the batch and for rows, padding, caches, costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import (
    LANGUAGE,
    NETWORKS,
    assert_same,
    build,
    inputs_of,
    row_of,
    tokens,
    transformers,
)
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

import l0func as l0

KEY = l0.random.key(1)


def gated(net: Any) -> Any:
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"*weight*": l0.element()})
    gates = l0.init_gates(l0.random.key(0), spec)
    return l0.gated(fn, spec), params, gates, buffers, spec


def masked(net: Any, params: Any, gates: Any, spec: Any, key: Any, **inputs: Any) -> Any:
    """The network's own output with masked weights."""
    weights = l0.apply_masks(params, l0.sample_masks(key, gates, spec))
    return functional_call(net, weights, (), inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_padded_batch_under_masks_is_the_network_with_masked_weights(name: str):
    net, inputs = build(name), inputs_of(name)
    apply, params, gates, buffers, spec = gated(net)
    ours = apply(params, gates, buffers, KEY, **inputs)
    other = masked(net, params, gates, spec, KEY, **inputs)
    assert type(ours) is type(other)
    assert_same(ours, other)


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_with_their_own_padding_and_masks_are_single_calls(name: str):
    net, inputs = build(name), inputs_of(name)
    apply, params, gates, buffers, spec = gated(net)
    keys = l0.random.split(KEY, 3)
    ours = l0.per_example(apply)(params, gates, buffers, keys, **inputs)
    for i, key in enumerate(keys):
        one = masked(net, params, gates, spec, key, **row_of(inputs, i))
        assert_same(ours, one, lambda x, i=i: x[i : i + 1])


@pytest.mark.parametrize("name", ["MiniLM", "Llama", "T5"])
def test_several_masks_and_chunks_take_rows_with_padding(name: str):
    net, inputs = build(name), inputs_of(name)
    apply, params, gates, buffers, _ = gated(net)
    keys = l0.random.split(l0.random.split(KEY, 3), 2)
    both = l0.per_example(apply)(params, gates, buffers, keys, **inputs)[0]
    for m in range(2):
        rows = l0.per_example(apply, chunk_size=2)
        torch.testing.assert_close(
            rows(params, gates, buffers, keys[:, m], **inputs)[0], both[:, m]
        )


def test_gradients_of_padded_rows_are_those_of_a_loop():
    inputs = inputs_of("MiniLM")
    apply, params, gates, buffers, _ = gated(build("MiniLM"))
    keys = l0.random.split(KEY, 3)

    def by_rows(p: Any) -> Any:
        return l0.per_example(apply)(p, gates, buffers, keys, **inputs)[0].square().sum()

    def by_loop(p: Any) -> Any:
        calls = [apply(p, gates, buffers, k, **row_of(inputs, i)) for i, k in enumerate(keys)]
        return torch.cat([call[0] for call in calls]).square().sum()

    ours, other = torch.func.grad(by_rows)(params), torch.func.grad(by_loop)(params)
    for path, expected in other.items():
        torch.testing.assert_close(ours[path], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_are_half_the_flops_that_torch_counts(name: str):
    net, inputs = build(name, attn_implementation="eager"), inputs_of(name)
    with FlopCounterMode(display=False) as counter:
        net(**inputs)
    assert l0.count_macs(*l0.make_functional(net), **inputs).total == counter.get_total_flops() / 2


def test_rows_continue_a_cache_and_leave_the_caller_s_as_it_is():
    net = build("Llama")
    apply, params, gates, buffers, spec = gated(net)
    with torch.no_grad():
        cache = net(tokens(4), use_cache=True)[1]
    keys, last = l0.random.split(KEY, 3), tokens(2, seed=5)
    inputs = {"input_ids": last, "cache": cache}
    ours = l0.per_example(apply)(params, gates, buffers, keys, **inputs)
    assert cache.get_seq_length() == 4
    assert ours.cache.get_seq_length() == 6
    for i, key in enumerate(keys):
        own = transformers.DynamicCache()
        for number, layer in enumerate(cache.layers):
            own.update(layer.keys[i : i + 1], layer.values[i : i + 1], number)
        single = {"input_ids": last[i : i + 1], "cache": own}
        one = masked(net, params, gates, spec, key, **single)
        assert_same(ours, one, lambda x, i=i: x[i : i + 1])


@pytest.mark.parametrize("name", ["BERT", "Llama"])
def test_hooks_that_a_forward_registers_are_those_of_one_call(name: str):
    net, inputs = build(name), {**inputs_of(name), "output_hidden_states": True}
    fn, params, buffers = l0.make_functional(net)
    module = l0.L0Module(net, 0.0, seed=0, estimator="median")
    expected = net(**inputs)
    for _ in range(3):
        assert_same(fn(params, buffers, **inputs), expected)
        module.train()
        assert len(module(**inputs).hidden_states) == 3
        assert len(module.eval()(**inputs).hidden_states) == 3


@pytest.mark.parametrize("name", ["Llama", "BERT"])
def test_a_batch_with_labels_gives_the_loss(name: str):
    net, inputs = build(name), inputs_of(name)
    labels = tokens() if name in LANGUAGE else torch.tensor([0, 1, 1])
    apply, params, gates, buffers, spec = gated(net)
    ours = apply(params, gates, buffers, KEY, **inputs, labels=labels)
    other = masked(net, params, gates, spec, KEY, **inputs, labels=labels)
    torch.testing.assert_close(ours.loss, other.loss)
    keys = l0.random.split(KEY, 3)
    with pytest.raises(ValueError, match=r"output\['loss'\], and there is no such dimension"):
        l0.per_example(apply)(params, gates, buffers, keys, **inputs, labels=labels)


@pytest.mark.parametrize("name", ["BERT", "Llama"])
def test_activation_checkpointing_reaches_the_network_and_changes_no_gradient(name: str):
    found: list[dict[str, Any]] = []
    for checkpoints in (False, True):
        net = l0.L0Module(build(name, use_cache=False), 1e-3, seed=0)
        if checkpoints:
            net.activation_checkpointing_enable()
        loss = net.train()(**inputs_of(name)).logits.square().sum() + net.regularization()
        loss.backward()
        grads = {path: p.grad for path, p in net.named_parameters() if p.grad is not None}
        found.append(grads)
    assert any(getattr(module, "gradient_checkpointing", False) for module in net.modules())
    assert found[0].keys() == found[1].keys()
    for path, expected in found[0].items():
        torch.testing.assert_close(found[1][path], expected, atol=1e-4, rtol=1e-3)


def test_activation_checkpointing_in_rows_is_refused_with_the_way_to_write_it():
    net = l0.L0Module(build("BERT"), 1e-3, per_example=True, seed=0)
    net.activation_checkpointing_enable()
    with pytest.raises(ValueError, match=r"ran inside a map over rows.*around the call"):
        net.train()(**inputs_of("BERT"))
