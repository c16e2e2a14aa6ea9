"""The recipes run: each is one script for one tool, with an assert of what it claims."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sampled import one_in, sampled

import l0func

RECIPES = Path(l0func.__file__).parent.parent / "examples" / "recipes"
NEEDS = {
    "accelerate_loop": ["accelerate"],
    "hf_trainer": ["transformers", "accelerate"],
    "lightning_module": ["lightning"],
    "peft_lora": ["transformers", "peft"],
    "plain_loop": ["sklearn"],
    "tensorboard_log": ["tensorboard"],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NEEDS)
def test_a_recipe_runs_as_it_stands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for package in NEEDS[name]:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    recipe = RECIPES / f"{name}.py"
    # It checks itself what its readers expect.
    assert "\nassert " in recipe.read_text()
    # A trainer seeds torch's global generator.
    with torch.random.fork_rng():
        runpy.run_path(str(recipe), run_name="__main__")


def test_every_recipe_is_run_and_is_at_most_30_lines_long():
    assert {path.stem for path in RECIPES.glob("*.py")} == set(NEEDS)
    for path in RECIPES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 30, path.name


OWN_NAMES = {"sklearn": "scikit-learn"}


@pytest.mark.parametrize("name", sampled(NEEDS, one_in(3)))
def test_a_recipe_says_what_to_install_and_which_package_is_absent(name: str):
    path = RECIPES / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    wanted = text.partition("pip install ")[2].removesuffix(".").split()
    assert sorted(wanted) == sorted(OWN_NAMES.get(package, package) for package in NEEDS[name])
    for package in NEEDS[name]:
        pytest.importorskip(package)
    blocked = (
        "import runpy, sys; from importlib.abc import MetaPathFinder\n"
        "class Absent(MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {NEEDS[name][0]!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}')\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"runpy.run_path({str(path)!r})"
    )
    ran = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    assert ran.returncode == 1
    assert (
        ran.stderr.splitlines()[-1] == f"ModuleNotFoundError: No module named {NEEDS[name][0]!r}"
    )
