"""A user's distribution: registered, it survives a file; otherwise nothing is written."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property

import pytest
import torch
from torch import Tensor

import l0func as l0
from l0func import distributions
from l0func.distributions import registry

PARAMS = {"w": torch.ones(4), "v": torch.ones(2)}


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    """Each test registers in a table of its own."""
    monkeypatch.setattr(registry, "DISTRIBUTIONS", dict(registry.DISTRIBUTIONS))


@dataclass(frozen=True)
class Plain(l0.BernoulliGate):
    """A coin under another name."""


@dataclass(frozen=True)
class Tuned(l0.BernoulliGate):
    """A coin with settings of every kind that JSON knows."""

    rate: float = 0.5
    count: int = 3
    flag: bool = True
    label: str = "ü"
    table: tuple[float, ...] = (0.5, 1.0)
    nothing: None = None


@dataclass(frozen=True)
class Shifted(l0.BernoulliGate):
    """A coin without defaults, and a condition on its setting."""

    by: float

    def __post_init__(self) -> None:
        if not 1 / self.by > 0:
            raise ValueError("by is positive")
        super().__post_init__()


def network(distribution):
    spec = l0.gate_spec(PARAMS, {"*": l0.element()}, distribution=distribution)
    return PARAMS, l0.init_gates(l0.random.key(0), spec), {}, spec


OWN = [Plain(), Tuned(), Tuned(rate=1, count=-2, flag=False, table=()), Shifted(0.25)]


@pytest.mark.parametrize("distribution", OWN, ids=repr)
def test_a_registered_distribution_survives_both_kinds_of_files(distribution, tmp_path):
    assert distributions.register(type(distribution)) is type(distribution)
    saved = network({"w": distribution, "v": l0.HardConcrete()})
    l0.save(tmp_path / "net", *saved)
    back = l0.load(tmp_path / "net")
    assert back.spec == saved[3]
    assert type(back.spec.gates[0].distribution) is type(distribution)
    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    start = l0.training(lambda *a: None, adam, adam).init(l0.random.key(1), *saved[:3])
    l0.save_state(tmp_path / "state", start, saved[3])
    assert l0.load_state(tmp_path / "state", start, saved[3]).gates.keys() == {"w", "v"}


@pytest.mark.parametrize("distribution", OWN, ids=repr)
def test_an_unregistered_distribution_is_refused_before_anything_is_written(
    distribution, tmp_path
):
    (tmp_path / "net").write_text("good")
    name = type(distribution).__name__
    saved = network(distribution)
    words = rf"not read again: gates\[0\]: .*says '{name}'; the closest.*distributions\.register"
    with pytest.raises(ValueError, match=words):
        l0.save(tmp_path / "net", *saved)
    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    start = l0.training(lambda *a: None, adam, adam).init(l0.random.key(1), *saved[:3])
    with pytest.raises(ValueError, match=words):
        l0.save_state(tmp_path / "net", start, saved[3])
    assert (tmp_path / "net").read_text() == "good"


def test_a_file_of_an_unknown_distribution_names_it(tmp_path):
    distributions.register(Plain)
    l0.save(tmp_path / "net", *network(Plain()))
    del registry.DISTRIBUTIONS["Plain"]
    words = r"net has no valid gate spec: .*'Plain'; the closest.*register first"
    with pytest.raises(ValueError, match=words):
        l0.load(tmp_path / "net")


def test_a_class_with_the_name_of_another_is_not_taken_for_it(tmp_path):
    @dataclass(frozen=True)
    class HardConcrete(l0.HardConcrete):
        def _published(self, log_alpha: Tensor) -> Tensor:
            return log_alpha.sigmoid()

    with pytest.raises(ValueError, match="Another distribution is registered as 'HardConcrete'"):
        distributions.register(HardConcrete)
    words = r"A file would give the gates 'w' HardConcrete.*Rename your class, and register it"
    with pytest.raises(ValueError, match=words):
        l0.save(tmp_path / "net", *network(HardConcrete()))
    assert not list(tmp_path.iterdir())


def test_a_cell_that_runs_again_registers_the_new_class():
    def cell():
        @distributions.register
        @dataclass(frozen=True)
        class Mine(l0.BernoulliGate):
            rate: float = 0.5

        return Mine

    cell()
    again = cell()
    spec = l0.gate_spec(PARAMS, distribution=again())
    assert type(l0.GateSpec.from_json(spec.to_json()).gates[0].distribution) is again


def a_subclass_without_fields_of_its_own():
    class Undecorated(l0.HardConcrete):
        pass

    return Undecorated


def an_instance():
    return l0.HardConcrete()


def another_class():
    return torch.nn.Linear


def a_function():
    return len


NO_CLASSES = [a_subclass_without_fields_of_its_own, an_instance, another_class, a_function]


@pytest.mark.parametrize("build", NO_CLASSES, ids=lambda build: build.__name__)
def test_only_a_dataclass_of_a_distribution_is_registered(build):
    before = dict(registry.DISTRIBUTIONS)
    with pytest.raises(TypeError, match="a subclass of GateDistribution with @dataclass"):
        distributions.register(build())
    assert before == registry.DISTRIBUTIONS


@pytest.mark.parametrize("name", ["name", "shape", "dtype", "kind"])
def test_a_field_that_a_spec_uses_itself_is_refused(name):
    space = {"__annotations__": {name: float}, name: 0.5}
    cls = dataclass(frozen=True)(type("Mine", (l0.BernoulliGate,), space))
    with pytest.raises(ValueError, match=f"rename the field '{name}' of Mine"):
        distributions.register(cls)


SETTINGS = [
    ({"by": 0.0}, "Shifted refuses its settings: .*division by zero"),
    ({"by": -1.0}, "Shifted refuses its settings: by is positive"),
    ({}, "Shifted refuses its settings: .*missing"),
    ({"by": 1.0, "bz": 1.0}, "Shifted has no field 'bz'; the closest is 'by'"),
    ({"by": "1"}, "Shifted.by is a float; got '1'"),
    ({"by": [1.0]}, "Shifted.by is a float; got list of 1"),
]


@pytest.mark.parametrize(("settings", "words"), SETTINGS, ids=str)
def test_whatever_a_users_class_raises_is_one_value_error(settings, words):
    distributions.register(Shifted)
    with pytest.raises(ValueError, match=words) as caught:
        distributions.from_dict({"kind": "Shifted", **settings})
    assert type(caught.value) is ValueError


def test_what_a_distribution_derives_is_not_written(tmp_path):
    @distributions.register
    @dataclass(frozen=True)
    class Derived(l0.BernoulliGate):
        rate: float = 0.5
        double: float = field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "double", 2 * self.rate)
            object.__setattr__(self, "table", torch.ones(3))
            super().__post_init__()

        @cached_property
        def slow(self) -> Tensor:
            return torch.ones(2)

    saved = network(Derived(0.75))
    assert saved[3].gates[0].distribution.slow.shape == (2,)
    assert Derived(0.75).to_dict() == {"kind": "Derived", "rate": 0.75}
    l0.save(tmp_path / "net", *saved)
    back = l0.load(tmp_path / "net").spec
    assert back == saved[3]
    assert back.gates[0].distribution.double == 1.5


def test_a_file_is_read_by_another_program_that_registers_the_class(tmp_path, monkeypatch):
    source = (
        "from dataclasses import dataclass\n"
        "import l0func as l0\n"
        "@l0.distributions.register\n"
        "@dataclass(frozen=True)\n"
        "class Mine(l0.BernoulliGate):\n"
        "    rate: float = 0.5\n"
    )
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("mine")
    l0.save(tmp_path / "net", *network(mine.Mine(0.25)))
    code = "import mine, l0func as l0; print(l0.load('net').spec.gates[0].distribution)"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout == "Mine(rate=0.25)\n"
