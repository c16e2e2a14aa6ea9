"""Reads and writes of values under per_example, against a loop over the rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from device import DEVICE
from steps import hides_indexing
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0
from l0func import random

KEYS = random.split(random.key(1), 5)


class Net(nn.Module):
    """A linear layer between two others, with a step to test in the middle."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        # The same weights on every device: with others, rows might read one value.
        with torch.device("cpu"):
            self.fc, self.out, self.step = nn.Linear(4, 6), nn.Linear(6, 2), step
        self.to(DEVICE)
        self.register_buffer("zeros", torch.zeros(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.step(self.fc(x)))


def both(step: Callable[[Tensor], Tensor], **settings: Any) -> tuple[Tensor, Tensor]:
    """The outputs of per_example, and those of a loop over rows with the same keys."""
    fn, params, buffers = l0.make_functional(Net(step).double())
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates, apply = l0.init_gates(random.key(0), spec), l0.gated(fn, spec)
    x = torch.sin(3 * torch.arange(20, dtype=torch.float64)).reshape(5, 4)
    calls = [apply(params, gates, buffers, k, x[i : i + 1]) for i, k in enumerate(KEYS)]
    rows = l0.per_example(apply, **settings)(params, gates, buffers, KEYS, x)
    return rows, torch.cat(calls)


def written(make: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A step that writes its input into a new tensor, in four ways."""

    def step(h: Tensor) -> Tensor:
        out = make(h)
        out[:, :3] = h[:, 3:]
        out[:, 3:].copy_(h[:, :3])
        out += h
        out.mul_(h)
        return out

    return step


MAKERS = {
    "empty": lambda h: torch.empty(1, 6, dtype=h.dtype),
    "empty, sizes in a list": lambda h: torch.empty([1, 6], dtype=h.dtype),
    "zeros": lambda h: torch.zeros(h.shape[0], 6, dtype=h.dtype),
    "zeros on a device": lambda h: torch.zeros(1, 6, dtype=h.dtype, device=h.device),
    "ones": lambda h: torch.ones((1, 6), dtype=h.dtype),
    "full": lambda h: torch.full((1, 6), 0.5, dtype=h.dtype),
    "eye": lambda h: torch.eye(1, 6, dtype=h.dtype),
    "tensor": lambda h: torch.tensor([[0.0] * 6], dtype=h.dtype),
    "zeros_like": torch.zeros_like,
    "empty_like": torch.empty_like,
    "ones_like a constant": lambda h: torch.ones_like(torch.zeros(1, 6, dtype=h.dtype)),
    "full_like": lambda h: torch.full_like(h, 2.0),
    "new_zeros": lambda h: h.new_zeros(1, 6),
    "new_empty": lambda h: h.new_empty((1, 6)),
    "new_ones": lambda h: h.new_ones(1, 6),
    "new_full": lambda h: h.new_full((1, 6), 3.0),
    "clone of a constant": lambda h: torch.zeros(1, 6, dtype=h.dtype).clone(),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_a_row_is_written_into_a_new_tensor(make, chunk_size):
    rows, loop = both(written(make), chunk_size=chunk_size)
    torch.testing.assert_close(rows, loop)


def test_writes_into_a_new_tensor_carry_gradients():
    fn, params, buffers = l0.make_functional(Net(written(MAKERS["zeros"])).double())
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates, apply = l0.init_gates(random.key(0), spec), l0.gated(fn, spec)
    x = torch.linspace(-2, 2, 20, dtype=torch.float64).reshape(5, 4)

    def by_rows(p: Any) -> Tensor:
        return l0.per_example(apply)(p, gates, buffers, KEYS, x).square().sum()

    def by_loop(p: Any) -> Tensor:
        calls = [apply(p, gates, buffers, k, x[i : i + 1]) for i, k in enumerate(KEYS)]
        return torch.cat(calls).square().sum()

    torch.testing.assert_close(torch.func.grad(by_rows)(params), torch.func.grad(by_loop)(params))


def test_one_key_for_the_batch_leaves_new_tensors_alone():
    made = []

    def step(h: Tensor) -> Tensor:
        made.append(torch.zeros(3))
        return h

    fn, params, buffers = l0.make_functional(Net(step))
    spec = l0.gate_spec(params)
    gates = l0.init_gates(random.key(0), spec)
    l0.gated(fn, spec)(params, gates, buffers, KEYS[0], torch.ones(5, 4))
    assert torch.equal(made[0], torch.zeros(3))


def with_mask(h: Tensor) -> Tensor:
    h[h < 0] = 0.5
    return h


def with_a_mask_by_rows(h: Tensor) -> Tensor:
    h[h.sum(1) > 0] = torch.tensor(-1.0, dtype=h.dtype)
    return h


def with_index_put(h: Tensor) -> Tensor:
    columns = torch.ones(6, dtype=torch.bool)
    columns[::2] = False
    h[:, columns] = h[:, ~columns] * 2
    return h


SAME_FOR_ALL: dict[str, Callable[[Tensor], Tensor]] = {
    "if": lambda h: -h if torch.ones(3).sum() > 2 else h,
    "item": lambda h: h * torch.full((2,), 1.5).sum().item(),
    "float": lambda h: h * float(torch.ones(2).mean()),
    "int": lambda h: h[:, : int(torch.tensor(4.2))].repeat(1, 2)[:, :6],
    "index": lambda h: h * [1.0, 2.0, 3.0][torch.tensor(1)],
    "tolist": lambda h: h * sum(torch.zeros(2).add(1).tolist()),
    "numpy": lambda h: h * float(torch.ones(2, device="cpu").numpy().sum()),
    "all": lambda h: h if (torch.zeros_like(h) == 0).all() else -h,
    "equal": lambda h: h if torch.equal(torch.zeros(2), torch.zeros(2).clone()) else -h,
    "allclose": lambda h: h if torch.allclose(torch.ones(2), torch.ones(2)) else -h,
    "in": lambda h: h if 3 in torch.full((2,), 3) else -h,
    "nonzero": lambda h: h.index_select(1, torch.eye(6)[0].nonzero().flatten()).repeat(1, 6),
    "where": lambda h: h * torch.where(torch.eye(6)[0] > 0)[0].sum(),
    "masked_select": lambda h: h.masked_select(torch.ones(1, 6, dtype=torch.bool)).reshape(1, 6),
    "unique": lambda h: h * torch.unique(torch.ones(4)).sum(),
    "a mask in an index": with_index_put,
    "finite": lambda h: torch.nan_to_num(h) if not torch.isfinite(h).all() else h,
    "format": lambda h: h * float(f"{torch.full((), 2.0):.1f}"),
    "NaNs in all rows": lambda h: h if torch.full((), float("nan")).item() > 0 else -h,
}


@pytest.mark.parametrize("step", SAME_FOR_ALL.values(), ids=SAME_FOR_ALL.keys())
def test_a_value_that_all_rows_share_is_read(step):
    rows, loop = both(step)
    torch.testing.assert_close(rows, loop)


@pytest.mark.parametrize("step", [with_mask, with_a_mask_by_rows])
def test_one_number_is_written_through_a_mask_that_differs_from_row_to_row(step):
    if step is with_a_mask_by_rows and hides_indexing():
        pytest.skip("this torch hides indexing from every context")
    rows, loop = both(step)
    torch.testing.assert_close(rows, loop)


def branching(h: Tensor) -> Tensor:
    return -h if h.sum() > 0 else h


def switching(h: Tensor) -> Tensor:
    while h.abs().max() > 0.5:
        h = h / 2
    return h


DIFFERENT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "if": (branching, r"'__bool__'.*test_row_values.py:\d+, in branching: .*torch.where"),
    "while": (switching, r"'__bool__'.*in switching.*torch.where"),
    "item": (lambda h: h / h.abs().max().item(), "'item'.*Keep the tensor"),
    "float": (lambda h: h / float(h.abs().max()), "'__float__'.*Keep the tensor"),
    "int": (lambda h: h * int(h.sum() * 9), "'__int__'.*Keep the tensor"),
    "tolist": (lambda h: h * h.tolist()[0][0], "'tolist'.*Keep the tensor"),
    "numpy": (lambda h: h * float(h.detach().cpu().numpy().sum()), "'numpy'.*Keep the tensor"),
    "format": (lambda h: h * float(f"{h.sum():.1f}"), "'__format__'.*Keep the tensor"),
    "mask": (lambda h: h + h[h > 0].mean(), r"'__getitem__'.*torch.where\(mask, a, b\)"),
    "nonzero": (lambda h: h + h.relu().nonzero().sum(), r"'nonzero'.*torch.where\(mask"),
    "masked_select": (lambda h: h + h.masked_select(h > 0).sum(), r"'masked_select'.*where\("),
    "unique": (lambda h: h + torch.unique(h.round()).sum(), "'.*unique'.*torch.where"),
    "equal": (
        lambda h: h if torch.equal(h[:, :1], h[:, :1].relu()) else -h,
        "'equal'.*torch.where",
    ),
    "in": (lambda h: h if 0 in h[:, :1].relu() else -h, "'__contains__'.*torch.where"),
    "range": (lambda h: h * len(range((h[0, 0] * 9).long().abs())), "'__index__'.*Keep the"),
    "sizes": (lambda h: h * torch.arange((h[0, 0] * 9).long().abs()).sum(), "Python number"),
}


@pytest.mark.parametrize(("step", "message"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_a_value_that_differs_from_row_to_row_is_refused_in_words_of_rows(step, message):
    with pytest.raises(ValueError, match=message):
        both(step)


@pytest.mark.parametrize(("step", "message"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_rows_one_after_another_may_read_any_value(step, message):
    if "__getitem__" in message and hides_indexing():
        pytest.skip("this torch hides indexing from every context")
    if "Python number" in message:
        pytest.skip("torch.arange asks vmap for the number behind every context")
    rows, loop = both(step, chunk_size=1)
    torch.testing.assert_close(rows, loop)


def into_a_shared_tensor(h: Tensor) -> Tensor:
    shared = torch.arange(6.0, dtype=h.dtype).reshape(1, 6)
    return shared.add_(h)


def into_a_shared_slice(h: Tensor) -> Tensor:
    shared = torch.arange(6.0, dtype=h.dtype).reshape(1, 6)
    shared[:, 1:3] = h[:, :2]
    return shared


def into_a_buffer(h: Tensor) -> Tensor:
    return torch.linspace(0, 1, 6, dtype=h.dtype).reshape(1, 6).copy_(h)


def with_an_operator(h: Tensor) -> Tensor:
    shared = torch.arange(6.0, dtype=h.dtype).reshape(1, 6)
    shared *= h
    return shared


def into_out(h: Tensor) -> Tensor:
    return torch.add(h, 1, out=torch.arange(6.0, dtype=h.dtype).reshape(1, 6))


OTHER: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "in place": (into_a_shared_tensor, r"'add_' .*into_a_shared.* all rows share.*x = x \+ y"),
    "a slice": (into_a_shared_slice, r"'__setitem__' .*all rows share.*clone\(\)"),
    "a buffer": (into_a_buffer, r"'copy_' .*all rows share"),
    "an operator": (with_an_operator, r"'mul_' .*all rows share"),
    "out": (into_out, r"out= \(.*in into_out.*without out="),
    "shapes": (
        lambda h: h + torch.repeat_interleave(h[0], (h[0] > 0).long()).sum(),
        "shape of a result",
    ),
    "no rule": (
        lambda h: h + torch.nested.nested_tensor([h[0]]).to_padded_tensor(0.0),
        "once for all rows.*other operations.*torch.cat",
    ),
}


@pytest.mark.parametrize(("step", "message"), OTHER.values(), ids=OTHER.keys())
def test_other_errors_of_vmap_come_in_words_of_rows(step, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(ValueError, match=message):
            both(step)


def test_an_error_of_the_module_itself_is_left_as_it_is():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        both(lambda h: h[:, :3])
    with pytest.raises(TypeError, match="can only concatenate str"):
        both(lambda h: "a" + 1)


def count_of(h: Tensor) -> Tensor:
    """A count that every row has, as a tensor of the row."""
    return (h.sum() * 0 + 2).long()


SIZED: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "ones": lambda h, n: h * torch.ones(n).sum(),
    "new_ones": lambda h, n: h * h.new_ones(n, 2).sum(),
    "eye": lambda h, n: h * torch.eye(n).sum(),
    "full": lambda h, n: h * torch.full((n, 3), 2.0).sum(),
    "expand": lambda h, n: h.expand(n, 6)[:1] * 2,
    "repeat": lambda h, n: h.repeat(n, 1)[:1] * 2,
    "topk": lambda h, n: h * h.topk(n)[0].sum(),
    "linspace": lambda h, n: h * torch.linspace(0, 1, n).sum(),
}


@pytest.mark.parametrize("sized", SIZED.values(), ids=SIZED.keys())
def test_a_tensor_in_a_numbers_place_is_refused_and_its_advice_helps(sized):
    with pytest.raises(ValueError, match=r"a Python number is needed.*write int\(n\)"):
        both(lambda h: sized(h, count_of(h)))
    rows, loop = both(lambda h: sized(h, int(count_of(h))))
    torch.testing.assert_close(rows, loop)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_an_encoder_in_eval_mode_maps_over_rows_with_padding_masks(norm_first, grad):
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=norm_first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        encoder = nn.TransformerEncoder(layer, 2).double().eval()
    fn, params, buffers = l0.make_functional(encoder)
    spec = l0.gate_spec(params, {"*weight": l0.element()})
    gates, apply = l0.init_gates(random.key(0), spec), l0.gated(fn, spec)
    x = torch.sin(torch.arange(5 * 4 * 8, dtype=torch.float64)).reshape(5, 4, 8)
    pads = torch.arange(4)[None] >= torch.tensor([4, 2, 3, 1, 4])[:, None]
    masks = [l0.sample_masks(key, gates, spec) for key in KEYS]
    with torch.set_grad_enabled(grad):
        rows = l0.per_example(apply)(params, gates, buffers, KEYS, x, src_key_padding_mask=pads)
    for i, mask in enumerate(masks):
        # A row without its padding is the row's answer at the places that are not padded.
        n = int((~pads[i]).sum())
        masked = l0.apply_masks(params, mask)
        alone = torch.func.functional_call(encoder, masked, (x[i : i + 1, :n],))
        torch.testing.assert_close(rows[i, :n], alone[0])


@pytest.mark.parametrize("keep", [lambda out: out, lambda out: out.detach(), lambda out: out * 2])
def test_a_tensor_that_a_hook_keeps_says_why_it_is_of_no_use(keep):
    net, kept = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), []
    net[0].register_forward_hook(lambda module, args, out: kept.append(keep(out)))
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates = l0.init_gates(random.key(0), spec)
    with pytest.warns(
        UserWarning, match=r"hook, on the modules '0', kept .*Return the activation"
    ):
        l0.per_example(l0.gated(fn, spec))(params, gates, buffers, KEYS, torch.ones(5, 3))
    assert kept[0].shape == (1, 5)
    assert "escaped" in repr(kept[0])
    for use in (Tensor.mean, Tensor.tolist, Tensor.numpy, lambda h: h + 1, lambda h: F.relu(h)):
        with pytest.raises(RuntimeError, match=r"escaped .*Return the activation"):
            use(kept[0])


@pytest.mark.parametrize("rule", [l0.element(), l0.axis(1)])
def test_a_hook_that_keeps_nothing_passes_without_a_warning(rule):
    net, shapes = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), []
    net[0].register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    net[1].register_forward_hook(lambda module, args, out: out * 2)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"*.weight": rule})
    gates = l0.init_gates(random.key(0), spec)
    x = torch.ones(5, 3)
    l0.per_example(l0.gated(fn, spec))(params, gates, buffers, KEYS, x)
    assert shapes == [(1, 5)]
    assert {type(t) for t in (*params.values(), *gates.values(), x)} == {Tensor}
