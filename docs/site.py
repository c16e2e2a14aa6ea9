"""Where the built site lies, and how its cells run."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from jupyter_cache import get_cache

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = HERE / "_build"


def cells_folder() -> Path:
    """The folder of executed cells, named by the library's sources and torch's version.

    So a changed library runs every cell again.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted((ROOT / "l0func").rglob("*.py")):
        digest.update(path.read_bytes())
    return BUILD / "cells" / digest.hexdigest()[:16]


def prepare_cells() -> None:
    """Give the cells an environment that depends on no user's settings, and one thread each.

    The cache is made here: processes that read pages in parallel would make it twice.
    """
    os.environ["IPYTHONDIR"] = str(BUILD / "ipython")
    # A line that says "this takes time" is for people, and no fault of a page.
    os.environ["L0FUNC_QUIET"] = "1"
    # Progress bars would like widgets, which no page shows.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    get_cache(cells_folder()).list_cache_records()
