"""The choice of kernels: what runs for which tensor, and what happens where numba is missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
from sampled import one_in, sampled
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import l0func as l0
from l0func import random
from l0func.kernels import by_torch, choice, loading
from l0func.kernels.backends import kernels_for
from l0func.kernels.loading import Loaded

HAS_NUMBA = loading.load_kernels("numba").kernels is not None
with_numba = pytest.mark.skipif(not HAS_NUMBA, reason="this platform has no numba")


@pytest.fixture(autouse=True)
def _automatic():
    l0.use_kernel("auto")


def fresh(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, where every warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "L0FUNC_KERNEL": "auto", **variables},
    )


@with_numba
def test_numba_runs_unless_torch_is_asked_for():
    assert l0.kernel_in_use() == "numba"
    assert l0.kernel_in_use("meta") == "torch"
    l0.use_kernel("eager")
    assert l0.kernel_in_use() == "torch"
    assert kernels_for(torch.ones(2)) is by_torch
    l0.use_kernel("compiled")
    assert l0.kernel_in_use(torch.device("cpu")) == "numba"


@with_numba
def test_plain_tensors_go_to_machine_code_whatever_their_layout():
    plain = [
        torch.ones(3),
        torch.ones(3, dtype=torch.float64),
        torch.ones(0),
        torch.ones(4, 4).T[::2],
        torch.ones(1).expand(5),
        torch.nn.Parameter(torch.ones(2), requires_grad=False),
        torch.ones(2, requires_grad=True).detach(),
        random.key(0),
    ]
    for tensor in plain:
        assert kernels_for(tensor, random.key(0)) is not by_torch
    with torch.no_grad():
        assert kernels_for(torch.ones(2, requires_grad=True)) is not by_torch
    with torch.inference_mode():
        assert kernels_for(torch.ones(2)) is not by_torch


class Marked(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2).half(),
        torch.ones(2).bfloat16(),
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.ones(2, dtype=torch.complex64).conj().imag,
        torch._efficientzerotensor(2),
        torch.ones(2).to_sparse(),
        torch.ones(2, device="meta"),
        torch.ones(2, requires_grad=True),
        torch.ones(2).as_subclass(Marked),
        FakeTensorMode().from_tensor(torch.ones(2)),
    ],
    ids=[
        "half",
        "bfloat16",
        "conj",
        "neg",
        "zeros",
        "sparse",
        "meta",
        "autograd",
        "subclass",
        "fake",
    ],
)
def test_other_tensors_go_to_torch(tensor):
    assert kernels_for(tensor) is by_torch
    assert kernels_for(torch.ones(2), tensor) is by_torch


def test_under_transforms_and_modes_torch_operations_run():
    seen: list[object] = []

    def look(t: torch.Tensor) -> torch.Tensor:
        seen.append(kernels_for(t))
        return t.sum()

    torch.vmap(look)(torch.ones(2, 3))
    torch.func.grad(look)(torch.ones(3))
    torch.func.jvp(look, (torch.ones(3),), (torch.ones(3),))
    with forward_mode.dual_level():
        look(forward_mode.make_dual(torch.ones(3), torch.ones(3)))
    with FlopCounterMode(display=False):
        look(torch.ones(3))
    torch.jit.trace(look, torch.ones(3), check_trace=False)
    assert len(seen) == 6
    assert all(kernels is by_torch for kernels in seen)


@pytest.mark.compiles
def test_inside_a_compiler_torch_operations_run():
    traced = torch.compile(lambda key: random.uniform(key, 5), backend="eager", fullgraph=True)
    assert torch.equal(traced(random.key(3)), random.uniform(random.key(3), 5))


def test_without_numba_torch_runs_silently_and_draws_the_same():
    code = (
        "import sys; sys.modules['numba'] = None\nimport l0func as l0\n"
        "print(l0.random.uniform(l0.random.key(3), 3).tolist(), l0.kernel_in_use())\n"
        "try:\n    l0.use_kernel('compiled')\nexcept RuntimeError as error:\n    print(error)"
    )
    done = fresh(code)
    assert done.stderr == ""
    drawn = random.uniform(random.key(3), 3).tolist()
    assert done.stdout.startswith(f"{drawn} torch\n")
    assert "use_kernel('compiled') needs numba, and numba is not installed" in done.stdout


def test_the_variable_compiled_is_an_error_at_the_first_draw_without_numba():
    code = (
        "import sys; sys.modules['numba'] = None\nimport l0func as l0\n"
        "l0.random.uniform(l0.random.key(3), 3)"
    )
    done = fresh(code, L0FUNC_KERNEL="compiled")
    assert "RuntimeError: use_kernel('compiled') needs numba" in done.stderr


BROKEN = {
    "too old": ("__version__ = '0.44.1'", "needs numba 0.57 or later, and finds 0.44.1"),
    "refusing numpy": ("raise ImportError('Numba needs NumPy 1.21 or less')", "Numba needs NumPy"),
    "damaged": ("raise SystemError('initialization failed')", "initialization failed"),
    "without its parts": ("__version__ = '0.68.0'", "numba does not work here"),
}


@pytest.mark.parametrize("kind", sampled(BROKEN, one_in(2)))
def test_a_broken_numba_warns_once_with_the_reason(kind, tmp_path):
    source, reason = BROKEN[kind]
    (tmp_path / "numba.py").write_text(source)
    code = (
        "import warnings, l0func as l0\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    u = [l0.random.uniform(l0.random.key(3), 3).tolist() for _ in range(2)]\n"
        "print(u[0] == u[1], l0.kernel_in_use(), len(caught), caught[0].filename)\n"
        "print(caught[0].message)"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = fresh(code, PYTHONPATH=path)
    assert done.stdout.startswith("True torch 1 <string>\n"), done.stderr
    assert reason in done.stdout


@with_numba
def test_a_numba_that_may_not_compile_stays_out_silently():
    code = (
        "import l0func as l0\nl0.random.uniform(l0.random.key(3), 3)\nprint(l0.kernel_in_use())\n"
        "l0.use_kernel('compiled')"
    )
    done = fresh(code, NUMBA_DISABLE_JIT="1")
    assert done.stdout == "torch\n"
    assert "because NUMBA_DISABLE_JIT is set" in done.stderr


@with_numba
def test_a_kernel_that_numba_refuses_warns_once_and_runs_in_torch(monkeypatch):
    def refused(*_: object) -> object:
        raise TypeError("numba knows better")

    building = "l0func.kernels.by_numba.compiled"
    monkeypatch.setattr(f"{building}._built", {})
    monkeypatch.setattr(f"{building}.kernel", refused)
    expected = by_torch.uniforms(random.key(3)[None], [3])
    with pytest.warns(UserWarning, match="cannot build a kernel of l0func: numba knows better"):
        assert torch.equal(random.uniform(random.key(3), 3), expected)
    assert torch.equal(random.uniform(random.key(3), 3), expected)
    assert l0.kernel_in_use() == "torch"
    l0.use_kernel("compiled")
    with pytest.raises(RuntimeError, match=r"knows better.*use_kernel\('eager'\) runs without"):
        random.uniform(random.key(3), 3)


def test_cuda_without_triton_runs_in_torch_and_compiled_says_so(monkeypatch):
    missing = Loaded(None, "triton is not installed")
    monkeypatch.setattr(choice, "load_kernels", lambda _: missing)
    assert l0.kernel_in_use("cuda") == "torch"
    monkeypatch.setattr(choice._choice, "kernel", "compiled")
    with pytest.raises(RuntimeError, match="needs triton, and triton is not installed"):
        l0.kernel_in_use("cuda")
