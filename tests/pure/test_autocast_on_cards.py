"""Autocast on a GPU, without one: fake tensors have dtypes, devices and torch's own dispatch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from l0func.internal.untyped import untyped
from l0func.pure.autocast import Autocast

pytestmark = [
    pytest.mark.on_cpu,
    pytest.mark.skipif(
        not hasattr(torch, "set_autocast_dtype"), reason="this torch has another switch"
    ),
]

SHORT = {
    "softmax": lambda x: F.softmax(x, -1),
    "torch.softmax": lambda x: torch.softmax(x, -1),
    "a method": lambda x: x.softmax(-1),
    "softmax with a dtype": lambda x: x.softmax(-1, dtype=torch.bfloat16),
    "softmin": lambda x: F.softmin(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x + 1, -1),
    "pairwise_distance": lambda x: F.pairwise_distance(x, x + 1),
    "norm": lambda x: x.norm(dim=-1),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "matrix_norm": torch.linalg.matrix_norm,
    "normalize": lambda x: F.normalize(x, dim=-1),
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "group_norm": lambda x: F.group_norm(x, 2),
    "sum": lambda x: x.sum(-1),
    "mean": lambda x: x.mean(-1),
    "cumsum": lambda x: x.cumsum(-1),
    "exp": torch.exp,
    "power": lambda x: x**3,
    "of two": lambda x: 2**x,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "tensordot": lambda x: torch.tensordot(x, wide(6, 2), 1),
    "inner": lambda x: torch.inner(x, wide(2, 6)),
    "cross": lambda x: torch.cross(x.narrow(-1, 0, 3), wide(5, 3), dim=-1),
    "addcmul": lambda x: torch.addcmul(x, x, wide(5, 6)),
    "matmul": lambda x: x @ x.transpose(0, 1),
    "smooth_l1": lambda x: F.smooth_l1_loss(x, x),
    "cross_entropy": lambda x: F.cross_entropy(x, classes(5)),
    "nll": lambda x: F.nll_loss(x, classes(5)),
    "l1_loss": lambda x: F.l1_loss(x, x),
}
WIDE = {
    "einsum": lambda x: torch.einsum("ij,jk->ik", x, x.transpose(0, 1)),
    "multi_dot": lambda x: torch.linalg.multi_dot([x, x.transpose(0, 1), x]),
    "vecdot": lambda x: torch.linalg.vecdot(x, x),
    "inner of float32": lambda x: torch.inner(x, x),
    "linear": lambda x: F.linear(x, wide(2, 6)),
    "relu": F.relu,
}
if hasattr(F, "rms_norm"):
    SHORT["rms_norm"] = lambda x: F.rms_norm(x, (6,))
CASES = {
    **{name: (call, torch.bfloat16) for name, call in SHORT.items()},
    **{name: (call, torch.float32) for name, call in WIDE.items()},
}


def wide(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, device="cuda")


def classes(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64, device="cuda")


@pytest.mark.parametrize("name", CASES)
def test_a_mapped_function_has_the_dtype_of_the_plain_one(name: str) -> None:
    call, dtype = CASES[name]
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    fake = untyped._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)
    try:
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        with fake:
            plain = call(torch.ones(5, 6, device="cuda", dtype=dtype))
            with Autocast():
                rows = torch.ones(4, 5, 6, device="cuda", dtype=dtype)
                mapped = torch.vmap(call, randomness="different")(rows)
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
    assert mapped.dtype == plain.dtype
    assert mapped.shape == (4, *plain.shape)
