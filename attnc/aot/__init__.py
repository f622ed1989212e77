"""Kernels ahead of time: compiled into a directory on any machine, run from there where there is CuPy and no compiler."""
