"""The script of the page docs/operations.md, as a module: the tests hold what it lists."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("operations_page", ROOT / "docs" / "operations.py")
assert _spec is not None
assert _spec.loader is not None
page: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(page)
