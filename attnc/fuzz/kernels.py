"""A compiled kernel against the reference: on random values, and on one-hot values that show the weights one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attnc.fuzz.case import Case
from attnc.interp import Array


def one_hot(v: Array) -> Iterator[Array]:
    """Values like v (B,H,L,E) that are 1 for key j and feature j - start only: output e is the weight of key start + e.

    The shape stays that of v, so that one compiled kernel serves all of them.
    """
    length, features = v.shape[2:]
    for start in range(0, length, features):
        probe = np.zeros_like(v)
        for e in range(min(features, length - start)):
            probe[:, :, start + e, e] = 1
        yield probe


def check_kernel(case: Case) -> str:
    """'' where the kernel stays within the bound of `verify` on every probe, else what it says."""
    q, k, v = case.inputs.q, case.inputs.k, case.inputs.v
    for name, values in [("random values", v), *((f"one-hot values {n}", x) for n, x in enumerate(one_hot(v)))]:
        found = case.variant.verify(q, k, values, return_lse=case.lse, **case.operands)
        if not found.ok:
            level = case.variant.bisect(q, k, values, **case.operands)
            return f"{name}, {v.dtype}: {found}; the first level that disagrees: {level}"
    return ""
