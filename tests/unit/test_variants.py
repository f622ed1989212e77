"""Every variant of the library against its paper's formula, pair by pair in plain Python and NumPy."""

import ast
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from test_papers import FORMULAS

import attnc as at
from attnc import variants
from attnc.variants.alibi import standard_slopes
from attnc.variants.samples import examples_of
from attnc.variants.t5 import bucket

FOLDER = Path(variants.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "samples"))
ANGLES = ("frequency", "rows", "columns")  # in float64: a rounded angle is wrong by more with every position
SHAPES = [  # B, Hq, Hkv, Lq, Lk, D, Dv
    (1, 1, 1, 1, 1, 1, 1),
    (2, 4, 2, 7, 7, 8, 5),
    (2, 2, 2, 5, 13, 7, 3),
    (1, 8, 2, 13, 6, 4, 4),
    (2, 8, 1, 1, 21, 16, 9),
    (1, 2, 2, 60, 60, 3, 2),
]


@dataclass(frozen=True)
class Pair:
    """One query and one key: their vectors, places and the operands. p is the query's position among the n keys."""

    q: np.ndarray
    k: np.ndarray
    b: int
    h: int
    i: int
    j: int
    p: int
    n: int
    o: dict[str, Any]

    @property
    def scaled(self) -> float:
        return float(self.q @ self.k) / math.sqrt(len(self.q))


def entry(table: np.ndarray, *index: int) -> Any:
    """table[index], where an axis of extent 1 is shared."""
    return table[tuple(n if size > 1 else 0 for n, size in zip(index, table.shape, strict=True))]


def longformer(x: Pair) -> bool:
    marks = x.o["is_global"]
    query_is_global = x.p >= 0 and bool(entry(marks, x.b, x.p))
    return abs(x.p - x.j) <= x.o["window"] // 2 or query_is_global or bool(entry(marks, x.b, x.j))


def bigbird(x: Pair) -> bool:
    mine, its = math.floor(x.p / x.o["block"]), x.j // x.o["block"]
    if abs(mine - its) <= x.o["window"] // 2 or its < x.o["global_blocks"] or 0 <= mine < x.o["global_blocks"]:
        return True
    return mine >= 0 and any(entry(x.o["random"], x.h, mine, n) == its for n in range(3))


def document(x: Pair) -> bool:
    number = int(entry(x.o["doc"], x.b, x.j))
    return x.p >= 0 and number >= 0 and int(entry(x.o["doc"], x.b, x.p)) == number


def dilated_window(x: Pair) -> bool:
    keys = {x.p + n * x.o["dilation"] for n in range(-(x.o["window"] // 2), x.o["window"] // 2 + 1)}
    return x.j in keys


def shared_prefix(x: Pair) -> bool:
    text = x.o["text"]
    return x.j <= x.p and (x.j < x.o["prefix"] or bool(entry(text, x.b, x.p) == entry(text, x.b, x.j)))


def block_sparse(x: Pair) -> bool:
    return x.j <= x.p and bool(entry(x.o["chosen"], x.b, x.h, x.p // x.o["rows"], x.j // x.o["block"]))


def block_diffusion(x: Pair) -> bool:
    half = x.n // 2
    (mine, my_block), (its, its_block) = (
        ("clean", (at - half) // x.o["block"]) if at >= half else ("noisy", at // x.o["block"]) for at in (x.i, x.j)
    )
    if its == "noisy":
        return mine == "noisy" and my_block == its_block
    return its_block < my_block or (mine == "clean" and my_block == its_block)


def neighbours(centre: int, kernel: int, extent: int) -> range:
    """The `kernel` places around one of `extent`; at the border those nearest to it (fewer where there are fewer)."""
    last = min(max(centre + kernel // 2, kernel - 1), extent - 1)
    return range(last - kernel + 1, last + 1)


def in_window(x: int, y: int, width: int, height: int, kernel: tuple[int, int]) -> bool:
    """Whether cell y of a canvas is in the window of rows and columns of cell x."""
    places = zip(divmod(x, width), divmod(y, width), kernel, (height, width), strict=True)
    return all(its in neighbours(mine, size, extent) for mine, its, size, extent in places)


def natten(x: Pair) -> bool:
    width, kernel = x.o["width"], x.o["kernel"]
    return in_window(x.i, x.j, width, math.ceil(x.n / width), (kernel, kernel))


def sliding_tile(x: Pair) -> bool:
    tile, width = x.o["tile"], x.o["width"]
    height = math.ceil(x.n / (tile * width))
    return in_window(x.i // tile, x.j // tile, width, height, (x.o["rows"], x.o["columns"]))


def t5_bucket(relative: np.ndarray, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128) -> np.ndarray:
    """The published _relative_position_bucket, in NumPy and float32."""
    ret = np.zeros_like(relative)
    n = -relative
    if bidirectional:
        num_buckets //= 2
        ret += (n < 0) * num_buckets
        n = np.abs(n)
    else:
        n = np.maximum(n, 0)
    max_exact = num_buckets // 2
    with np.errstate(divide="ignore"):
        ratio = np.log(n.astype(np.float32) / np.float32(max_exact)) / np.float32(math.log(max_distance / max_exact))
    large = max_exact + np.nan_to_num(ratio * np.float32(num_buckets - max_exact), neginf=0).astype(np.int64)
    return ret + np.where(n < max_exact, n, np.minimum(large, num_buckets - 1))


def t5(x: Pair) -> float:
    number = int(t5_bucket(np.array([x.j - x.p]), x.o["bidirectional"])[0])
    hidden = not x.o["bidirectional"] and x.j > x.p
    return -math.inf if hidden else float(x.q @ x.k) + float(entry(x.o["table"], x.h, number))


def alibi(x: Pair) -> float:
    return x.scaled - float(entry(x.o["slopes"], x.h)) * (x.p - x.j) if x.j <= x.p else -math.inf


def soft_cap(x: Pair) -> float:
    return x.o["cap"] * math.tanh(x.scaled / x.o["cap"]) if x.j <= x.p else -math.inf


MASKS: dict[str, Callable[[Pair], bool]] = {
    "full": lambda x: True,
    "gqa": lambda x: True,
    "causal": lambda x: x.j <= x.p,
    "sliding_window": lambda x: x.j in range(x.p - x.o["window"] + 1, x.p + 1),
    "dilated_window": dilated_window,
    "prefix_lm": lambda x: x.j < entry(x.o["prefix"], x.b) or x.j <= x.p,
    "longformer": longformer,
    "bigbird": bigbird,
    "document": document,
    "cross": lambda x: x.j < entry(x.o["lengths"], x.b),
    "chunked": lambda x: x.j in range(x.p // x.o["chunk"] * x.o["chunk"], x.p + 1),
    "shared_prefix": shared_prefix,
    "block_sparse": block_sparse,
    "block_diffusion": block_diffusion,
    "natten": natten,
    "sliding_tile": sliding_tile,
}
SCORES: dict[str, Callable[[Pair], float]] = {
    "alibi": alibi,
    "t5": t5,
    "soft_cap": soft_cap,
    "additive_mask": lambda x: x.scaled + float(entry(x.o["M"], x.b, x.h, x.i, x.j)),
}


def score(name: str, pair: Pair) -> float:
    if name in SCORES:
        return SCORES[name](pair)
    return pair.scaled if MASKS[name](pair) else -math.inf


def by_hand(name: str, q, k, v, operands):
    """Output (B, Hq, Lq, Dv) and lse (B, Hq, Lq), one row at a time."""
    batch, heads, q_len, _ = q.shape
    kv_len, group = k.shape[2], heads // k.shape[1]
    out, lse = np.zeros((batch, heads, q_len, v.shape[3])), np.full((batch, heads, q_len), -np.inf)
    for b, h, i in np.ndindex(batch, heads, q_len):
        keys, values = k[b, h // group], v[b, h // group]
        pairs = [Pair(q[b, h, i], keys[j], b, h, i, j, i + kv_len - q_len, kv_len, operands) for j in range(kv_len)]
        s = np.array([score(name, pair) for pair in pairs])
        if np.isfinite(s).any():
            e = np.exp(s - s.max())
            out[b, h, i] = e @ values / e.sum()
            lse[b, h, i] = s.max() + math.log(e.sum())
    return out, lse


def arrays(rng, batch, heads, kv_heads, q_len, kv_len, d, e, dtype=np.float64):
    shapes = (batch, heads, q_len, d), (batch, kv_heads, kv_len, d), (batch, kv_heads, kv_len, e)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", sorted(MASKS | SCORES))
def test_a_variant_is_its_formula(name, shape):
    for seed in range(3):
        rng = np.random.default_rng([seed, *shape, *name.encode()])
        q, k, v = arrays(rng, *shape)
        operands = examples_of(name, rng, *shape, np.float64)
        out, lse = getattr(variants, name).reference(q, k, v, return_lse=True, **operands)
        expected, expected_lse = by_hand(name, q, k, v, operands)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(lse, expected_lse, rtol=0, atol=1e-12)


def test_the_library_has_no_holes():
    assert sorted(variants.__all__) == NAMES == sorted(MASKS | SCORES | FORMULAS)
    assert dir(variants) == NAMES
    for name in NAMES:
        assert isinstance(getattr(variants, name), at.Attention)
        assert getattr(variants, name).__name__ == name
    with pytest.raises(AttributeError, match="'nonesuch'"):
        variants.nonesuch  # noqa: B018
    with pytest.raises(KeyError, match="nonesuch"):
        examples_of("nonesuch", np.random.default_rng(0), 1, 1, 1, 1, 1, 1, 1, np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_imports_only_attnc_and_cites_its_paper(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    paper = r"(19|20)\d\d, (arXiv \d{4}\.\d{5}|doi 10\.\d{4}/\S+)"
    assert re.search(paper, (ast.get_docstring(tree) or "").replace("\n", " "))
    statements = [x for x in tree.body if isinstance(x, ast.Import | ast.ImportFrom)]
    modules = {x.module for x in statements if isinstance(x, ast.ImportFrom)}
    modules |= {alias.name for x in statements if isinstance(x, ast.Import) for alias in x.names}
    assert modules - sys.stdlib_module_names == {"attnc"}


def test_variants_are_loaded_when_named_and_a_name_is_never_the_module():
    probe = """
import sys
from attnc import variants
assert not [m for m in sys.modules if m.startswith("attnc.variants.")]
import attnc.variants.full
from attnc.variants.causal import causal
assert variants.causal is causal and variants.full.__name__ == "full" and callable(variants.full)
assert "attnc.variants.t5" not in sys.modules and "numba" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_samples_fit_and_repeat(name, dtype):
    for shape in [(3, 4, 2, 9, 9, 8, 4), (1, 2, 1, 3, 1, 5, 2), (2, 2, 2, 1, 33, 4, 4)]:
        rng = np.random.default_rng(1)
        q, k, v = arrays(rng, *shape, dtype=dtype)
        operands, again = (examples_of(name, np.random.default_rng(7), *shape, dtype) for _ in range(2))
        out = getattr(variants, name).reference(q, k, v, **operands)
        assert np.isfinite(out).all()
        assert operands.keys() == again.keys()
        for key, value in operands.items():
            np.testing.assert_array_equal(value, again[key])
            if isinstance(value, np.ndarray):
                allowed = {np.dtype(dtype), np.dtype(np.int64), np.dtype(bool)}
                assert value.dtype in allowed or key in ANGLES


def live(name: str, q_len: int, kv_len: int, **operands: Any) -> list[str]:
    """Which keys each query sees, as rows of # and dots, for one head."""
    rng = np.random.default_rng(0)
    q, k, _ = arrays(rng, 1, 1, 1, q_len, kv_len, 4, 1)
    weights = getattr(variants, name).reference(q, k, np.eye(kv_len)[None, None], **operands)[0, 0]
    return ["".join("#" if w > 0 else "." for w in row) for row in weights]


def test_masks_at_a_glance():
    assert live("causal", 2, 4) == ["###.", "####"]
    assert live("causal", 4, 2) == ["..", "..", "#.", "##"]
    assert live("sliding_window", 3, 5, window=2) == [".##..", "..##.", "...##"]
    assert live("dilated_window", 5, 5, window=2, dilation=2) == ["#.#..", ".#.#.", "#.#.#", ".#.#.", "..#.#"]
    assert live("prefix_lm", 4, 4, prefix=np.array([2])) == ["##..", "##..", "###.", "####"]
    assert live("cross", 2, 4, lengths=np.array([3])) == ["###.", "###."]
    assert live("cross", 1, 3, lengths=np.array([0])) == ["..."]
    assert live("document", 5, 5, doc=np.array([[0, 0, 1, 1, -1]])) == ["##...", "##...", "..##.", "..##.", "....."]
    marks = np.array([[False, False, True, False, False]])
    assert live("longformer", 5, 5, window=0, is_global=marks) == ["#.#..", ".##..", "#####", "..##.", "..#.#"]
    assert live("longformer", 3, 2, window=0, is_global=np.array([[True, False]])) == ["#.", "##", "##"]
    random = np.array([[[-1], [3], [-1], [1]]])
    blocks = live("bigbird", 8, 8, random=random, block=2, window=1, global_blocks=1, random_blocks=1)
    assert blocks == ["########", "########", "####..##", "####..##", "##..##..", "##..##..", "####..##", "####..##"]


def test_masks_of_blocks_and_images_at_a_glance():
    assert live("chunked", 4, 5, chunk=2) == ["##...", "..#..", "..##.", "....#"]
    assert live("shared_prefix", 4, 5, prefix=1, text=np.array([[9, 0, 0, 1, 1]])) == [
        "##...",
        "###..",
        "#..#.",
        "#..##",
    ]
    marks = np.array([[[[True, False], [False, True]]]])
    assert live("block_sparse", 4, 4, chosen=marks, rows=2, block=3) == ["#...", "##..", "....", "...#"]
    noisy, clean = ["##......", "..####.."], ["....##..", "....####"]
    assert live("block_diffusion", 8, 8, block=2)[::2] == noisy + clean
    image = live("natten", 9, 9, width=3, kernel=1)
    assert image == ["".join("#" if i == j else "." for j in range(9)) for i in range(9)]
    row = ["###.###.###.....", "###.###.###.....", ".###.###.###....", ".###.###.###...."]
    assert live("natten", 16, 16, width=4, kernel=3)[:4] == row
    assert live("sliding_tile", 8, 8, tile=2, width=4, rows=1, columns=3)[::2] == [
        "######..",
        "######..",
        "..######",
        "..######",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_without_keys_every_row_is_empty(name):
    shape = (2, 4, 2, 3, 0, 4, 3)
    rng = np.random.default_rng(0)
    q, k, v = arrays(rng, *shape)
    operands = examples_of(name, rng, *shape, np.float64)
    variant = getattr(variants, name)
    assert (variant.reference(q, k, v, **operands) == 0).all()
    if sum(x.op == "softmax" for x in variant.graph.nodes()) == 1:
        lse = variant.reference(q, k, v, return_lse=True, **operands)[1]
        sink = operands.get("sink", 0.0 if name == "softmax1" else -np.inf)
        assert (lse == np.reshape(sink, (1, -1, 1))).all()


def test_an_additive_mask_of_finfo_min_masks():
    q, k, v = arrays(np.random.default_rng(0), 1, 1, 1, 3, 4, 2, 2, dtype=np.float32)
    M = np.where(np.arange(4) < 2, 0, np.finfo(np.float32).min).astype(np.float32)[None, None, None]
    expected = variants.full.reference(q, k[:, :, :2], v[:, :, :2])
    np.testing.assert_allclose(variants.additive_mask.reference(q, k, v, M=M), expected, rtol=0, atol=1e-14)
    out, lse = variants.additive_mask.reference(q, k, v, M=np.full((1, 1, 1, 1), -np.inf), return_lse=True)
    assert (out == 0).all() and np.isneginf(lse).all()


@pytest.mark.parametrize("name", NAMES)
def test_grouped_heads_equal_repeated_heads(name):
    shape = (2, 8, 2, 6, 9, 4, 3)
    rng = np.random.default_rng(3)
    q, k, v = arrays(rng, *shape)
    operands = examples_of(name, rng, *shape, np.float64)
    variant = getattr(variants, name)
    axes = {key: x.axes for key, x in variant.signature.operands.items()}
    wide_operands = {
        key: np.repeat(x, 4, axis=axes[key].index("g")) if "g" in axes[key] else x for key, x in operands.items()
    }
    wide = variant.reference(q, np.repeat(k, 4, axis=1), np.repeat(v, 4, axis=1), **wide_operands)
    np.testing.assert_allclose(variant.reference(q, k, v, **operands), wide, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("bidirectional", "buckets", "max_distance"),
    [(True, 32, 128), (False, 32, 128), (True, 16, 100), (False, 20, 77), (True, 8, 20)],
)
def test_t5_buckets_are_the_published_ones(bidirectional, buckets, max_distance):
    @at.attention
    def numbers(q, i):
        return at.size(q) * bucket(i - 200, buckets, max_distance, bidirectional)

    x = np.zeros((401, 1))
    expected = t5_bucket(np.arange(-200, 201), bidirectional, buckets, max_distance)
    np.testing.assert_array_equal(numbers.reference(x, x, x), expected)
    assert set(expected) == set(range(buckets)) - ({buckets // 2} if bidirectional else set())


def published_slopes(n: int) -> list[float]:
    """get_slopes of the authors' repository (ofirpress/attention_with_linear_biases)."""

    def power_of_2(n: int) -> list[float]:
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(n).is_integer():
        return power_of_2(n)
    closest = 2 ** math.floor(math.log2(n))
    return power_of_2(closest) + published_slopes(2 * closest)[0::2][: n - closest]


def test_alibi_slopes_are_the_published_ones():
    assert standard_slopes(8) == [2.0**-n for n in range(1, 9)]
    for heads in range(1, 65):
        np.testing.assert_allclose(standard_slopes(heads), published_slopes(heads), rtol=1e-14)
