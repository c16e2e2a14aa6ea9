"""Kernels in machine code for plain CUDA tensors, compiled by Triton.

Only the choice of a backend imports this folder, and only where Triton is installed.
"""
