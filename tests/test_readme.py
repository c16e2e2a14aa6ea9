"""The README and the examples do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GALLERY = (ROOT / "examples" / "README.md").read_text()


def run(*arguments: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


def table(text: str) -> dict[str, list[str]]:
    """The rows of a summary by parameter: shape, gates, and the rest."""
    rows = (re.split(r"\s{2,}", line.strip()) for line in text.splitlines())
    return {row[0]: row[1:] for row in rows if len(row) >= 7}


def test_the_readmes_programs_print_what_the_readme_shows(tmp_path):
    (tmp_path / "program.py").write_text("".join(blocks("python")[:2]))
    shown, printed = blocks("text")[0], run("program.py", cwd=tmp_path)
    left = int(re.search(r"(\d+) parameters are expected to stay", printed).group(1))
    assert 300 < left < 1000
    accuracy = [
        float(re.search(r"([\d.]+)% of unseen digits", text).group(1)) for text in (shown, printed)
    ]
    # The draws are the same to the bit everywhere; what 400 steps of floating-point sums make of
    # them is not.
    assert accuracy[1] == pytest.approx(accuracy[0], abs=3)
    ours, theirs = table(printed), table(shown)
    assert list(ours) == list(theirs)
    assert ours["0.weight"][:2] == theirs["0.weight"][:2]
    realised = [float(t["total"][-2].rstrip("%")) for t in (ours, theirs)]
    assert realised[0] == pytest.approx(realised[1], abs=5)


def test_the_readmes_compaction_prints_what_the_readme_shows(tmp_path):
    (tmp_path / "program.py").write_text(blocks("python")[2])
    printed = run("program.py", cwd=tmp_path)
    # Older versions of torch print fewer of a module's settings.
    assert printed.replace(", bias=True, track", ", track") == blocks("text")[1].replace(
        ", bias=True, track", ", track"
    )


def test_the_readmes_controlled_step_runs_on_its_second_program(tmp_path):
    first, second, _, controlled = blocks("python")
    start = first.split("net = l0.L0Module")[0] + second.split("init, step =")[0]
    shown = "print(int(state.step), value.isfinite().item())"
    (tmp_path / "program.py").write_text(start + controlled + shown)
    assert run("program.py", cwd=tmp_path).split() == ["1", "True"]


def test_the_readme_is_one_page_of_prose_in_order():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("![", "|---"))]
    assert len(re.findall(r"[A-Za-z][A-Za-z'-]+", " ".join(lines))) <= 1200
    text = [line for line in lines if not line.startswith("|")]
    assert len(" ".join(text).split()) <= 900
    headings = re.findall(r"^## (.*)", README, flags=re.MULTILINE)
    assert headings == [
        "Install and test",
        "A module",
        "The same as pure functions",
        "The picture",
        "Why a mask for every example",
        "Really smaller",
        "A target instead of λ",
        "Features",
        "Speed",
        "Links",
    ]


def test_the_gate_runs_the_readmes_commands_as_written():
    gate = (ROOT / ".ci" / "run").read_text()
    tests = 'pip install -e ".[dev]" && pytest'
    assert f"\n{tests}\n" in README
    assert f"\n{tests}\n" in gate
    script = r"(?:python|torchrun --nproc-per-node \d) examples/(\w+)\.py"
    shown = set(re.findall(rf'\npip install -e "\.\[dev\]" && {script}', README + GALLERY))
    assert shown == set(re.findall(rf"\n{script} ", gate))
    assert len(shown) == 12


def test_every_file_that_a_readme_names_is_there():
    for name in re.findall(r"\(?((?:examples|tests)/[\w/]+\.\w+)", README):
        assert (ROOT / name).exists(), name
    for folder in ("examples", "tests/bench"):
        for name in re.findall(r"\]\(([\w./]+)\)", (ROOT / folder / "README.md").read_text()):
            assert (ROOT / folder / name).exists(), name


def test_a_heading_that_a_link_leads_to_is_there():
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in GALLERY.splitlines()
    }
    for anchor in re.findall(r"examples/README\.md#([\w-]+)", README):
        assert anchor in headings, anchor
