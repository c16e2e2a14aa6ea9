"""``L0Module``, the stateful face of the library: a copy of any module, with learned gates."""

from l0func.module.l0_module import L0Module

__all__ = ["L0Module"]
