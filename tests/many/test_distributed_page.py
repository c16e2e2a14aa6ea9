"""The program on the page about many processes runs, with the result of one process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import processes

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"


def _ran() -> tuple[float, list[Any]]:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    names: dict[str, Any] = {}
    exec(compile(program, str(PAGE), "exec"), names)
    trees = names["state"].params, names["state"].gates
    return float(names["value"]), [t.tolist() for tree in trees for t in tree.values()]


@pytest.mark.parametrize("size", [2, 3])
def test_the_program_has_the_result_of_one_process(size):
    (one,) = processes(1).run(_ran)
    several = processes(size).run(_ran)
    assert all(result == several[0] for result in several)
    assert abs(several[0][0] - one[0]) < 1e-6
    for own, whole in zip(several[0][1], one[1], strict=True):
        torch.testing.assert_close(torch.tensor(own), torch.tensor(whole), atol=1e-5, rtol=0)
