"""Kernels in machine code for plain CPU tensors, compiled by numba.

Only :mod:`l0func.kernels.backends` imports this folder, and only where numba is installed.
"""
