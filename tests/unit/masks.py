"""The masks of published attentions that the library does not hold, each as its formula."""

import inspect
from collections.abc import Callable
from typing import Any

import attnc as at


def masked(mask: Callable[..., Any]) -> at.Attention:
    """The attention over the keys for which a function of indices and operands holds."""

    def variant(q, k, v, *indices, **operands):
        return at.softmax(at.dot(q, k), where=mask(*indices, **operands)) @ v

    vectors = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in "qkv"]
    variant.__signature__ = inspect.Signature([*vectors, *inspect.signature(mask).parameters.values()])
    variant.__name__ = mask.__name__
    return at.attention(variant)


@masked
def from_the_left(i, j):
    return j <= i


@masked
def both_sides(i, j, *, window: int):
    return at.abs(i - j) <= window


@masked
def global_and_window(i, j, *, tokens: int, window: int):
    return (i < tokens) | (j < tokens) | (at.abs(i - j) <= window)


@masked
def same_document(b, i, j, *, doc: at.Tensor["b", "j", int]):
    return doc[b, i] == doc[b, j]


@masked
def packed_causal(b, i, j, *, doc: at.Tensor["b", "j", int]):
    p = i + at.kv_len - at.q_len
    return (j <= p) & (doc[b, p] == doc[b, j])


@masked
def packed_causal_by_starts(b, i, j, *, start: at.Tensor["b", "i", int]):
    return (start[b, i] <= j) & (j <= i)


@masked
def natten_1d(i, j, *, kernel: int):
    r = kernel // 2
    return at.abs(at.clip(i, r, at.kv_len - 1 - r) - j) <= r


def in_window(x, y, kernel, extent):
    """Whether coordinate y is in the window of x, which is moved inwards at the border."""
    return at.abs(at.clip(x, kernel // 2, extent - 1 - kernel // 2) - y) <= kernel // 2


@masked
def natten_2d_last_rows(i, j, *, width: int, kernel: int):
    p = i + at.kv_len - at.q_len
    height = at.kv_len // width
    return in_window(p // width, j // width, kernel, height) & in_window(p % width, j % width, kernel, width)


@masked
def natten_of_tiles(i, j, *, width: int, rows: int, columns: int, kernel: int):
    """The image's pixels lie tile by tile, rows x columns each."""
    area, across = rows * columns, width // columns
    height = at.kv_len // width

    def place(t):
        tile, inside = t // area, t % area
        return tile // across * rows + inside // columns, tile % across * columns + inside % columns

    (yi, xi), (yj, xj) = place(i), place(j)
    return in_window(yi, yj, kernel, height) & in_window(xi, xj, kernel, width)


@masked
def natten_3d(i, j, *, height: int, width: int, frames: int, kernel: int):
    """A video frame by frame; `frames`: the kernel along time."""
    area = height * width
    near = in_window(i // area, j // area, frames, at.kv_len // area)
    near = near & in_window(i // width % height, j // width % height, kernel, height)
    return near & in_window(i % width, j % width, kernel, width)


def even_bits(t, bits):
    x = t & 1
    for n in range(1, bits):
        x = x | ((t >> n) & (1 << n))
    return x


@masked
def morton_natten(i, j, *, bits: at.Const[int], kernel: int):
    """Pixels in Z-order: the bits of column and row alternate."""
    side = 1 << bits
    columns = in_window(even_bits(i, bits), even_bits(j, bits), kernel, side)
    return columns & in_window(even_bits(i >> 1, bits), even_bits(j >> 1, bits), kernel, side)


def compact(t):
    """Every second bit of 16, by masks: the usual code for Z-order."""
    t = t & 0x5555
    t = (t | (t >> 1)) & 0x3333
    t = (t | (t >> 2)) & 0x0F0F
    return (t | (t >> 4)) & 0x00FF


@masked
def morton_natten_by_masks(i, j, *, side: int, kernel: int):
    near = in_window(compact(i), compact(j), kernel, side)
    return near & in_window(compact(i >> 1), compact(j >> 1), kernel, side)


@masked
def local_and_strided(i, j, *, block: int, local: int, stride: int):
    """The block-sparse heads of Phi-3-small: the last blocks, and every block of a stride."""
    x, y = i // block, j // block
    return (j <= i) & ((x - y < local) | ((y + 1) % stride == 0))


@masked
def every_other_block(i, j, *, block: int, stride: int):
    return (i // block - j // block) % stride == 0


@masked
def block_causal(i, j, *, block: int):
    p = i + at.kv_len - at.q_len
    return j // block <= p // block


@masked
def both_padded(b, i, j, *, lengths: at.Tensor["b", int]):
    return (i < lengths[b]) & (j < lengths[b]) & (j <= i)


@masked
def window_per_head(h, i, j, *, window: at.Tensor["h", int]):
    p = i + at.kv_len - at.q_len
    return (j <= p) & (p - j < window[h])


@masked
def sink_and_window(i, j, *, sinks: int, window: int):
    p = i + at.kv_len - at.q_len
    return (j <= p) & ((p - j < window) | (j < sinks))


@masked
def even_heads_local(h, i, j, *, window: int):
    return (j <= i) & ((h % 2 == 1) | (i - j < window))


@masked
def even_heads_choose(h, i, j, *, window: int):
    return at.where(h % 2 == 0, at.abs(i - j) <= window, j <= i)


@masked
def tree_by_ancestors(i, j, *, ancestor: at.Tensor["i", "n", int], depth: at.Const[int]):
    """Speculative decoding: the queries are the nodes of a tree behind a prompt; `ancestor` lists each node's line."""
    prompt = at.kv_len - at.q_len
    seen = j < prompt
    for d in range(depth):
        seen = seen | (prompt + ancestor[i, d] == j)
    return seen


@masked
def tree_by_intervals(i, j, *, end: at.Tensor["j", int]):
    """A tree in depth-first order: j is an ancestor of i where i is in the subtree [j, end[j])."""
    return (j <= i) & (i < end[j])


@masked
def image_spans(b, i, j, *, lo: at.Tensor["b", "i", int], hi: at.Tensor["b", "i", int]):
    """Text tokens see the tokens of the last image before them."""
    return (lo[b, i] <= j) & (j < hi[b, i])
