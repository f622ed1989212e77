"""The CUDA backend: a tile program as a Python kernel over PTX intrinsics, compiled without a GPU at hand."""
