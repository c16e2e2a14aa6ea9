"""A module and its function: the same outputs, and nothing shared between them."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optree
import pytest
import torch
from comparing import close, equal
from device import DEVICE
from torch import Tensor, nn
from torch.func import functional_call
from zoo import BY_NAME, CASES, Case

import l0func as l0

BY_CUDNN = {"rtol": 1e-3, "atol": 1e-4} if DEVICE == "cuda" else {}
"""It sums in another order than l0func, which writes recurrent layers out under a transform."""

quiet = pytest.mark.parametrize(
    "case",
    [c for c in CASES if "dropout" not in c.name and c.name not in ("functions", "encoder")],
    ids=repr,
)


@quiet
def test_the_function_computes_what_the_module_does(case: Case):
    module, inputs = case.build(), case.batch()
    fn, params, buffers = l0.make_functional(module)
    close(fn.with_buffers(params, buffers, *inputs)[0], copy.deepcopy(module)(*inputs))
    other = {name: torch.randn_like(p) for name, p in params.items()}
    close(
        fn.with_buffers(other, buffers, *inputs)[0],
        functional_call(copy.deepcopy(module), {**other, **dict(module.named_buffers())}, inputs),
    )


@quiet
def test_new_buffers_are_those_that_the_module_would_have(case: Case):
    module, inputs = case.build(), case.batch()
    fn, params, buffers = l0.make_functional(module)
    _, updated = fn.with_buffers(params, buffers, *inputs)
    module(*inputs)
    assert equal(updated, dict(module.named_buffers()))
    if case.train and buffers:
        assert not equal(updated, buffers)


@quiet
def test_gradients_are_those_of_the_module(case: Case):
    module, inputs = case.build(), case.batch()
    recurrent = [layer for layer in module.modules() if isinstance(layer, nn.RNNBase)]
    for layer in recurrent:
        layer.train()  # cuDNN has a backward pass in training mode alone
    fn, params, buffers = l0.make_functional(module)

    def total(output: Any) -> Tensor:
        return sum((x.double() ** 2).sum() for x in optree.tree_leaves(output))

    def loss(params: Any) -> Tensor:
        return total(fn.with_buffers(params, buffers, *inputs)[0])

    ours = torch.func.grad(loss)(params)
    total(module(*inputs)).backward()
    for name, p in module.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(ours[name], p.grad, **BY_CUDNN if recurrent else {})


@quiet
def test_a_call_changes_neither_module_nor_arguments(case: Case):
    module, inputs = case.build(), case.batch()
    fn, params, buffers = l0.make_functional(module)
    before = copy.deepcopy(
        (params, buffers, inputs, dict(module.named_parameters()), dict(module.named_buffers()))
    )
    attributes = {name: dict(vars(m)) for name, m in module.named_modules()}
    state = torch.get_rng_state()
    fn.with_buffers(params, buffers, *inputs)
    assert equal(
        before,
        (params, buffers, inputs, dict(module.named_parameters()), dict(module.named_buffers())),
    )
    assert torch.equal(state, torch.get_rng_state())
    for name, m in module.named_modules():
        assert all(vars(m)[key] is value for key, value in attributes[name].items())


def test_the_function_holds_no_weights():
    module = nn.Sequential(nn.Linear(50, 50), nn.LSTM(50, 5))
    fn, params, _ = l0.make_functional(module)
    references = [weakref.ref(p) for p in module.parameters()] + [
        weakref.ref(p) for p in params.values()
    ]
    del module, params
    gc.collect()
    assert all(reference() is None for reference in references)
    assert fn.shapes["0.weight"] == (50, 50)


def test_the_function_keeps_the_modes_that_it_was_made_with():
    module = BY_NAME["cnn"].build()
    module[1].train()
    fn, params, buffers = l0.make_functional(module)
    module.eval()
    inputs = BY_NAME["cnn"].batch()
    _, updated = fn.with_buffers(params, buffers, *inputs)
    assert updated["1.num_batches_tracked"].item() == 1
    fixed, _, _ = l0.make_functional(module)
    assert fixed.with_buffers(params, buffers, *inputs)[1]["1.num_batches_tracked"].item() == 0


def test_params_are_copies_and_trainable_says_which_are_not_frozen():
    module = BY_NAME["two_inputs"].build()
    fn, params, _ = l0.make_functional(module)
    params["left.weight"].zero_()
    assert module.left.weight.abs().sum() > 0
    assert set(params) - fn.trainable == {"left.bias"}
    assert params["scale"].dtype == torch.float64
    assert not any(p.requires_grad for p in params.values())


def test_tied_weights_and_shared_submodules_stay_tied():
    fn, params, buffers = l0.make_functional(BY_NAME["tied"].build())
    assert set(params) == {"encode.weight", "encode.bias", "decode.bias"}
    (x,) = BY_NAME["tied"].batch()
    w, a, b = params["encode.weight"], params["encode.bias"], params["decode.bias"]
    expected = (torch.relu(x @ w.T + a) @ w.T + b) @ w.T + b
    torch.testing.assert_close(fn(params, buffers, x), expected)


class Sly(nn.Module):
    """Holds parameters, submodules and methods in plain containers, and logs its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.layers = [self.a, {"b": self.b}]
        self.weights = (self.a.weight, None)
        self.step = self.double
        self.diary: list[int] = []

    def double(self, x: Tensor) -> Tensor:
        return 2 * self.a(x)

    def forward(self, x: Tensor) -> Tensor:
        self.diary.append(len(x))
        self.last = x
        return self.step(x) + self.layers[0](x) @ self.weights[0] + self.layers[1]["b"](x)


def test_tensors_and_modules_in_plain_attributes_are_replaced_too():
    module = Sly()
    fn, params, buffers = l0.make_functional(module)
    other = {name: torch.randn_like(p) for name, p in params.items()}
    x = torch.randn(3, 2)

    def layer(name: str) -> Tensor:
        return x @ other[f"{name}.weight"].T + other[f"{name}.bias"]

    torch.testing.assert_close(
        fn(other, buffers, x), 2 * layer("a") + layer("a") @ other["a.weight"] + layer("b")
    )
    assert module.diary == []
    assert not hasattr(module, "last")
    assert fn(other, buffers, x).equal(fn(other, buffers, x))


def test_hooks_run_on_the_call_and_not_on_the_module():
    module = nn.Linear(2, 2)
    seen = []
    module.register_forward_hook(lambda m, args, out: seen.append(m) or out * 3)
    fn, params, buffers = l0.make_functional(module)
    x = torch.ones(1, 2)
    torch.testing.assert_close(
        fn(params, buffers, x), 3 * (x @ params["weight"].T + params["bias"])
    )
    assert seen[0] is not module


def test_threads_may_call_at_once():
    case = BY_NAME["cnn_train"]
    fn, params, buffers = l0.make_functional(case.build())
    (x,) = case.batch()
    variants = [{name: p * (i + 1) for name, p in params.items()} for i in range(24)]
    alone = [fn.with_buffers(v, buffers, x) for v in variants]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda v: fn.with_buffers(v, buffers, x), variants))
    assert all(equal(a, b) for a, b in zip(alone, together, strict=True))


def test_one_function_serves_a_stack_of_models():
    case = BY_NAME["mlp"]
    fn, params, buffers = l0.make_functional(case.build())
    (x,) = case.batch()
    models = [{name: torch.randn_like(p) for name, p in params.items()} for _ in range(3)]
    stacked = {name: torch.stack([m[name] for m in models]) for name in params}
    outputs = torch.vmap(lambda p: fn(p, buffers, x))(stacked)
    for output, model in zip(outputs, models, strict=True):
        torch.testing.assert_close(output, fn(model, buffers, x))


def test_nested_params_and_keyword_inputs_are_taken():
    fn, params, buffers = l0.make_functional(BY_NAME["two_inputs"].build())
    a, pair = BY_NAME["two_inputs"].batch()
    nested: dict[str, Any] = {"left": {}, "right": {}, "scale": params["scale"]}
    for name in ("left.weight", "left.bias", "right.weight"):
        head, tail = name.split(".")
        nested[head][tail] = params[name]
    assert equal(
        fn(nested, buffers, a, pair, gain=2.0), fn(params, buffers, a, pair=pair, gain=2.0)
    )


def test_functions_are_copied_and_pickled():
    fn, params, buffers = l0.make_functional(BY_NAME["residual"].build())
    (x,) = BY_NAME["residual"].batch()
    for twin in (copy.deepcopy(fn), pickle.loads(pickle.dumps(fn))):
        assert torch.equal(twin(params, buffers, x), fn(params, buffers, x))


def test_what_does_not_fit_the_module_is_named():
    fn, params, buffers = l0.make_functional(BY_NAME["cnn"].build())
    (x,) = BY_NAME["cnn"].batch()
    misspelled = {("0.wieght" if name == "0.weight" else name): p for name, p in params.items()}
    with pytest.raises(
        ValueError, match=r"'0.wieght' is in the params given.*; the closest is '0.weight'"
    ):
        fn(misspelled, buffers, x)
    with pytest.raises(
        ValueError, match=r"'4.bias' is in the module's params and not in the params given"
    ):
        fn({name: p for name, p in params.items() if name != "4.bias"}, buffers, x)
    with pytest.raises(
        ValueError,
        match=r"'1.num_batches_tracked' is in the module's buffers and not.*make_functional",
    ):
        fn(params, {}, x)
    with pytest.raises(ValueError, match=r"'4.bias' has shape \(2,\); got \(3,\)"):
        fn({**params, "4.bias": torch.zeros(3)}, buffers, x)
    with pytest.raises(TypeError, match=r"leaves of params are tensors; '4.bias' is float"):
        fn({**params, "4.bias": 1.0}, buffers, x)
    mlp = l0.make_functional(BY_NAME["mlp_dropout"].build())
    with pytest.raises(ValueError, match=r"'dropout' is random, and there is no key"):
        mlp.fn(mlp.params, mlp.buffers, torch.zeros(1, 4))


def test_modules_that_cannot_be_pure_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"Embedding '0' has max_norm=1.0, which rewrites its weight"
    ):
        l0.make_functional(nn.Sequential(nn.Embedding(3, 2, max_norm=1.0)))
    lazy = nn.Sequential(_lazy())
    with pytest.raises(ValueError, match=r"'0.weight' is uninitialised; run the lazy module once"):
        l0.make_functional(lazy)
    with pytest.raises(TypeError, match=r"eager torch.nn.Module; got function"):
        l0.make_functional(lambda x: x)


class Renormalised(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 2), 5.0))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, max_norm=1.0)


@pytest.mark.parametrize("function", [nn.functional.embedding, nn.functional.embedding_bag])
def test_a_lookup_that_rewrites_its_weight_is_refused_before_it_does(function):
    fn, params, buffers = l0.make_functional(Renormalised(function))
    with pytest.raises(ValueError, match=r"'embedding.*' with max_norm=1.0 rewrites its weight"):
        fn(params, buffers, torch.zeros(2, 2, dtype=torch.int64))
    assert (params["weight"] == 5).all()


def _lazy() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.LazyLinear(2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN is on cards")
def test_a_made_recurrent_module_has_its_weights_in_one_piece():
    net, x = nn.LSTM(3, 4, num_layers=2).cuda(), torch.ones(5, 2, 3, device="cuda")
    fn, params, buffers = l0.make_functional(net)
    made = fn.module(params, buffers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(made(x), net(x))


class Flattened(nn.GRU):
    """A recurrent layer that counts how often its weights were put into one piece."""

    count = 0

    def flatten_parameters(self) -> None:
        self.count += 1
        super().flatten_parameters()


def test_only_a_layer_that_computes_with_its_parameters_puts_them_into_one_piece():
    fn, params, buffers = l0.make_functional(Flattened(3, 4))
    before = fn.module(params, buffers)
    assert before.count == 2  # torch's own at the start, and this one
    normed = Flattened(3, 4)
    nn.utils.parametrizations.weight_norm(normed, "weight_hh_l0")
    fn, params, buffers = l0.make_functional(normed)
    assert fn.module(params, buffers).count == normed.count
