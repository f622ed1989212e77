"""The CPU backend: Numba kernels over explicit SIMD values."""
