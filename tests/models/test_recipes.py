"""The recipes run: each is one script for one tool, with an assert of what it claims."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

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
    # A trainer seeds torch's global generator.
    with torch.random.fork_rng():
        runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")


def test_every_recipe_is_run_and_is_at_most_30_lines_long():
    assert {path.stem for path in RECIPES.glob("*.py")} == set(NEEDS)
    for path in RECIPES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 30, path.name
