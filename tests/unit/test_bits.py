"""The same bits from run to run, with any number of threads: many work items, of which any thread may take any."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from test_by_products import calls, watched
from test_papers import kernel_call

import attnc as at
from attnc import variants

RUNS = {1: 10, 2: 75, 3: 15}  # of each number of threads
FORMULAS = (  # whose one kernel test_papers compiles: every normaliser, products and none, two softmaxes, both halves of float types
    "bahdanau", "cosine", "differential", "learned_sink", "linear", "mixed_windows", "polynomial", "relu_squared", "retention", "rope",
    "sigmoid", "softmax1", "ssd", "taylor", "unnormalised",
)  # fmt: skip


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = at.get_num_threads()
    yield
    at.set_num_threads(before)


def same_in_all_runs(call: Callable[[], object]) -> None:
    """100 runs against the first."""

    def bits() -> list[bytes]:
        found = call()
        return [x.tobytes() for x in (found if isinstance(found, tuple) else (found,))]

    at.set_num_threads(1)
    first = bits()
    for threads, runs in RUNS.items():
        at.set_num_threads(threads)
        assert all(bits() == first for _ in range(runs)), f"{threads} threads"


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMULAS)
def test_every_normaliser(name: str, threads_restored: None) -> None:
    """128 work items: two tiles of queries of four heads of 16 sequences."""
    inputs, operands = kernel_call(name, batch=16)
    same_in_all_runs(lambda: getattr(variants, name)(*inputs, **operands))


def test_several_sweeps(threads_restored: None) -> None:
    q, k, v = (np.repeat(x, 20, 0) for x in calls(70, 90, 1.0))
    same_in_all_runs(lambda: watched(q * np.arange(1, 21, dtype=np.float32)[:, None, None, None], k, v))


@pytest.mark.parametrize("queries", [1, 2])
def test_split_keys_of_few_queries(queries: int, threads_restored: None) -> None:
    """Eight heads, whose keys are cut in 10 parts; the worker that ends the last part merges them."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 4, n, 1), dtype=np.float32) for n in (queries, 5000, 5000))
    same_in_all_runs(lambda: variants.full(q, k, v, return_lse=True))
