"""Faults planted in the emitted source of the schedule `wgmma`: the emulator refuses each, or the numbers are wrong.

Tiles of 32 keys and two stages, so that a run takes little time: what is emitted is the same but for these numbers. One block takes all
items. v has large entries: what a row misses is as large as what it has.
"""

import functools
import re

import ml_dtypes
import numpy as np
import pytest
from running import run
from test_cuda_variants import sample

import attnc.variants as library
from attnc.backends.cuda import plan
from attnc.backends.cuda.emulate.faults import Deadlock, Fault, Misaligned, OutOfBounds, Race
from attnc.schedule.wgmma import Wgmma

WRONG = None  # the fault shows in the result
SHAPES = {
    "causal": {"B": 1, "Hq": 1, "Hkv": 1, "Lq": 140, "Lk": 140, "D": 128, "Dv": 128},
    "heads": {"B": 2, "Hq": 2, "Hkv": 1, "Lq": 20, "Lk": 30, "D": 16, "Dv": 16},
    "qk_norm": {"B": 1, "Hq": 2, "Hkv": 1, "Lq": 20, "Lk": 70, "D": 64, "Dv": 16},
    "l2_distance": {"B": 1, "Hq": 2, "Hkv": 1, "Lq": 20, "Lk": 70, "D": 16, "Dv": 16},
}


def nothing(v):
    """All values are finite."""


def infinite(v):
    """The value of a key that the last query sees alone, and one of a key in the middle: masked in the tiles of others."""
    v[-1, :, -1, 5], v[-1, :, -40, 6] = np.inf, np.nan


def last(v):
    """Of the last batch only."""
    v[-1, :, -1, 0] = np.inf


def variant(name):
    return "causal" if name == "heads" else name


@functools.cache
def inputs(name):
    q, k, v, operands = sample(variant(name), ml_dtypes.bfloat16, **SHAPES[name])
    return q, k, np.sign(v.astype(np.float32)).astype(v.dtype), operands


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(plan, "wgmma_candidates", lambda x, limit: [Wgmma(2, 32, 2, x.overlap, x.overlap)])


def start(name, edit=lambda text: text, poison=nothing):
    q, k, v, operands = inputs(name)
    v = v.copy()
    poison(v)
    return run(getattr(library, variant(name)), q, k, v, operands, edit=edit, target="sm_90a", blocks=1)


def is_right(name, found, poison=nothing):
    """Right numbers; rows computed again only where a sum is not finite; and each item was taken once, then there were none."""
    x = SHAPES[name]
    items = x["B"] * x["Hq"] * -(-x["Lq"] // found.schedule.rows)
    return found.report().ok and (poison is not nothing or not found.flags.any()) and found.asked == items + 1


def planted(old, new="", which=slice(None)):
    """An edit: neighbouring lines that begin with the lines of `old`, wherever they are indented, become `new`.

    which: of all places where they occur, those that are changed.
    """

    def pattern(line):
        return r"( *)" + re.escape(line) + r"[^\n]*\n"

    def edit(text):
        found = list(re.finditer("^" + "".join(map(pattern, old.split("\n"))), text, re.MULTILINE))
        chosen = found[which] if isinstance(which, slice) else [found[which]]
        assert chosen, old
        for place in reversed(chosen):
            lines = "".join(f"{place[1]}{line}\n" for line in new.split("\n") if line)
            text = text[: place.start()] + lines + text[place.end() :]
        return text

    return edit


def swapped(old, new, count=None):
    """An edit: a part of a line becomes another one, everywhere; count: in how many places."""

    def edit(text):
        assert text.count(old) == count if count else old in text, old
        return text.replace(old, new)

    return edit


def caught(name, edit, expected, poison=nothing):
    """A planted fault raises just this error, or something is not right."""

    def changed(text):
        assert edit(text) != text
        return edit(text)

    if expected is WRONG:
        assert not is_right(name, start(name, changed, poison), poison)
        return
    with pytest.raises(expected) as error:
        start(name, changed, poison)
    assert type(error.value) is expected


def full(ring):
    return f"bars + {16 if ring == 'K' else 48} + 8 * (turn_{ring} & 1)"


def empty(ring):
    return f"bars + {32 if ring == 'K' else 64} + 8 * (turn_{ring} & 1)"


def arrive(place):
    return f"mbar_arrive_if(eq(lane, 0), {place})"


def some(place):
    return f"mbar_arrive_if(and_(eq(lane, 0), waiting), {place})"


def turn(ring):
    return f"turn_{ring} = resize(turn_{ring} + 1, 32)"


SCORES = "wgmma_wait(1)\nhold(S)"
PRODUCT = "wgmma_wait(0)\nhold(acc)\nhold(P_packed)"
SOME_V = f"{some(empty('V'))}\nturn_V = resize(turn_V + where(waiting, 1, 0), 32)"
PACK = "for kk in unrolled(2):\n    P_packed[0, kk, 0] = pack_bf16(P[0, 2 * kk + 0, 0], P[0, 2 * kk + 0, 1])"
SCALE = "acc[0, 0, 0] = mul(alpha[0, 0], acc[0, 0, 0])"
STORE = "async_fence()\nnamed_barrier(2 + (warp >> 2), 128)"
BEFORE = "tma_wait_read(0)  # of the output before\nnamed_barrier(2 + (warp >> 2), 128)"


def first_keys(text):
    """The stage of an item's first keys is released while their product is under way."""
    text = planted("wgmma_wait(0)\nwaiting = False", f"{arrive(empty('K'))}\nwgmma_wait(0)\nwaiting = False")(text)
    return planted(
        f"hold(S)\n{arrive(empty('K'))}", f"hold(S)\nmbar_arrive_if(and_(eq(lane, 0), waiting), {empty('K')})"
    )(text)


def early_queries(text):
    """Queries are released while they are multiplied with the last keys."""
    text = planted(arrive("bars + 8"), "pass")(text)
    return planted("# sweep 0 over the keys", f"{arrive('bars + 8')}\n# sweep 0 over the keys")(text)


WAITS = {
    "no wait for scores": (planted(SCORES, "hold(S)"), Race),
    "a wait that leaves scores": (planted(SCORES, "wgmma_wait(2)\nhold(S)"), Race),
    "no wait for the first scores": (planted("wgmma_wait(0)\nwaiting = False", "waiting = False"), Race),
    "no hold of scores": (planted(SCORES, "wgmma_wait(1)"), Fault),
    "no wait for the product": (planted(PRODUCT, "hold(acc)\nhold(P_packed)", 0), Race),
    "no wait for the last product": (planted(PRODUCT, "hold(acc)\nhold(P_packed)", -1), Race),
    "a wait that leaves the product": (planted(PRODUCT, "wgmma_wait(1)\nhold(acc)\nhold(P_packed)", 0), Race),
    "no hold of the product": (planted(PRODUCT, "wgmma_wait(0)\nhold(P_packed)", 0), Fault),
    "weights are packed before the wait": (planted(PRODUCT, f"{PACK}\n{PRODUCT}", 0), Race),
    "sums are scaled before the wait": (planted(PRODUCT, f"{SCALE}\n{PRODUCT}", 0), Race),
    "no fence before scores": (planted("hold(S)\nwgmma_fence()", "hold(S)", 1), Fault),
    "no fence before the product": (planted("hold(P_packed)\nwgmma_fence()", "hold(P_packed)", 0), Fault),
    "no commit of scores": (planted(f"wgmma_commit()\nmbar_wait({full('V')}", f"mbar_wait({full('V')}, turn_V >> 1 & 1)"), Race),
    "keys are not waited for": (planted(f"mbar_wait({full('K')}, turn_K >> 1 & 1)", "", 1), Race),
    "values are not waited for": (planted(f"mbar_wait({full('V')}, turn_V >> 1 & 1)", "", 0), Race),
    "the queries are not waited for": (planted("mbar_wait(bars, served & 1)"), Race),
}  # fmt: skip

DESCRIPTORS = {
    "a wrong step along the features": (swapped("kk % 4 * 2, kk", "kk % 4 * 4, kk", 2), Fault),
    "the wrong distance of panels of K": (swapped("+ kk // 4 * 256", "+ kk // 4 * 192", 2), WRONG),
    "the wrong distance of panels of Q": (swapped("+ kk // 4 * 1024", "+ kk // 4 * 512", 2), WRONG),
    "a wrong step along the keys": (swapped("+ 128 * kk", "+ 64 * kk", 2), WRONG),
    "a wrong leading distance of V": (swapped("| 0x4000004001000000", "| 0x4000004000800000", 2), WRONG),
    "a wrong stride": (swapped("| 0x4000004000010000", "| 0x4000008000010000", 4), Race),
    "another permutation": (swapped("| 0x4000004001000000", "| -0x7fffffbfff000000", 2), Race),
    "the queries of the other consumer": (swapped("Q_shared + (warp >> 2) * 8192", "Q_shared + (1 - (warp >> 2)) * 8192", 2), WRONG),
    "always the first keys": (planted("K = K_shared + (turn_K & 1) * 8192", "K = K_shared", 1), Race),
    "always the first values": (planted("V = V_shared + (turn_V & 1) * 8192", "V = V_shared", 0), Race),
    "values as if they lay by keys": (swapped('1, "bf16", 1)', '1, "bf16", 0)', 2), Race),
    "scores that begin with the old ones": (swapped(', kk, "bf16", 0)', ', 1, "bf16", 0)', 2), WRONG),
}  # fmt: skip

RINGS = {
    "keys are never released": (planted(f"{arrive(empty('K'))}\n{turn('K')}", turn("K"), 0), Deadlock),
    "the end of the keys is never released": (planted(f"{arrive(empty('K'))}\n{turn('K')}", turn("K"), -1), Deadlock),
    "values are never released": (planted(SOME_V, SOME_V.split("\n")[1]), Deadlock),
    "the last values are never released": (planted(f"{arrive(empty('V'))}\n{turn('V')}", turn("V")), Deadlock),
    "queries are never released": (planted(arrive("bars + 8"), "", 0), Deadlock),
    "the first keys are released too early": (first_keys, Race),
    "queries are released too early": (early_queries, Race),
    "values are released too early": (planted(f"{PRODUCT}\n{SOME_V}", f"{SOME_V}\n{PRODUCT}"), Race),
    "values that were not taken are released": (swapped("and_(eq(lane, 0), waiting)", "eq(lane, 0)", 1), Fault),
    "one lane releases for all": (swapped(arrive(empty("K")), arrive(empty("K")).replace("eq(lane", "eq(thread()")), Deadlock),
    "too few releases are awaited": (planted("mbar_init_if(eq(thread(), 0), bars + 32, 8)", "mbar_init_if(eq(thread(), 0), bars + 32, 4)"), Deadlock),
    "too many releases are awaited": (planted("mbar_init_if(eq(thread(), 0), bars + 64, 8)", "mbar_init_if(eq(thread(), 0), bars + 64, 9)"), Deadlock),
    "the producer does not wait for keys": (planted(f"mbar_wait({empty('K')}"), Fault),
    "the producer does not wait for values": (planted(f"mbar_wait({empty('V')}"), Fault),
    "the producer does not wait for queries": (planted("mbar_wait(bars + 8, served & 1 ^ 1)"), Race),
    "the other parity of full keys": (swapped(f"{full('K')}, turn_K >> 1 & 1)", f"{full('K')}, turn_K >> 1 & 1 ^ 1)", 2), Race),
    "the other parity of empty keys": (swapped("turn_K >> 1 & 1 ^ 1", "turn_K >> 1 & 1", 1), Deadlock),
    "the other parity of full values": (swapped(f"{full('V')}, turn_V >> 1 & 1)", f"{full('V')}, turn_V >> 1 & 1 ^ 1)", 2), Race),
    "the other parity of empty values": (swapped("turn_V >> 1 & 1 ^ 1", "turn_V >> 1 & 1", 1), Deadlock),
    "the other parity of full queries": (swapped("mbar_wait(bars, served & 1)", "mbar_wait(bars, served & 1 ^ 1)", 1), Race),
    "the other parity of empty queries": (swapped("served & 1 ^ 1", "served & 1", 1), Deadlock),
    "the producer keeps its stage of keys": (planted(f"{turn('K')}\nmbar_wait", f"mbar_wait({empty('V')}, turn_V >> 1 & 1 ^ 1)"), Fault),
    "the producer keeps its stage of values": (planted(f"{turn('V')}\ncursor += 32", "cursor += 32"), Fault),
    "a consumer keeps its stage of keys": (planted(f"{arrive(empty('K'))}\n{turn('K')}", arrive(empty("K")), 0), Race),
    "a consumer keeps its stage of values": (planted("turn_V = resize(turn_V + where(waiting, 1, 0), 32)"), Race),
    "the parity of the next round comes too late": (swapped("turn_K >> 1", "turn_K >> 2"), Fault),
}  # fmt: skip

COPIES = {
    "too few bytes of queries": (swapped("bars, 32768)", "bars, 16384)", 1), Fault),
    "too many bytes of queries": (swapped("bars, 32768)", "bars, 49152)", 1), Deadlock),
    "too few bytes of keys": (swapped(f"{full('K')}, 8192)", f"{full('K')}, 4096)", 1), Fault),
    "too many bytes of keys": (swapped(f"{full('K')}, 8192)", f"{full('K')}, 8208)", 1), Deadlock),
    "too few bytes of values": (swapped(f"{full('V')}, 8192)", f"{full('V')}, 8176)", 1), Fault),
    "too many bytes of values": (swapped(f"{full('V')}, 8192)", f"{full('V')}, 12288)", 1), Deadlock),
    "bytes that are awaited elsewhere": (swapped(f"v_map, {full('V')}", f"v_map, {full('K')}", 2), Fault),
    "another row of queries": (swapped("q_map, bars, 0, i0", "q_map, bars, 0, 0", 1), WRONG),
    "another row of keys": (swapped(f"k_map, {full('K')}, 0, cursor", f"k_map, {full('K')}, 0, cursor + 1", 1), WRONG),
    "another row of values": (swapped(f"v_map, {full('V')}, 64, cursor", f"v_map, {full('V')}, 64, j1", 1), WRONG),
    "the same panel twice": (swapped(f"k_map, {full('K')}, 64, cursor", f"k_map, {full('K')}, 0, cursor", 1), WRONG),
    "one panel over the other": (swapped("(turn_V & 1) * 8192 + 4096, v_map", "(turn_V & 1) * 8192, v_map", 1), Race),
    "a box between patterns": (swapped("Q_shared + 16384, q_map", "Q_shared + 16448, q_map", 1), Misaligned),
    "another array": (swapped("v_map, bars", "k_map, bars", 2), WRONG),
}  # fmt: skip

OUTPUTS = {
    "no async_fence": (planted(STORE, "named_barrier(2 + (warp >> 2), 128)"), Race),
    "async_fence behind the barrier": (planted(STORE, "named_barrier(2 + (warp >> 2), 128)\nasync_fence()"), Race),
    "no barrier before the store": (planted(STORE, "async_fence()"), Race),
    "one barrier for both consumers": (swapped("named_barrier(2 + (warp >> 2), 128)", "named_barrier(2, 128)"), Fault),
    "no wait for the output before": (planted(BEFORE, "named_barrier(2 + (warp >> 2), 128)"), Race),
    "no barrier behind that wait": (planted(BEFORE, "tma_wait_read(0)"), Race),
    "no wait at the end": (planted("tma_wait_read(0)", "", -1), Fault),
    "no commit": (planted("tma_commit()"), Race),
    "another row": (swapped("64, i0 + (warp >> 2) * 64", "64, i0", 1), WRONG),
    "rows of the other consumer": (swapped("out_shared + 16384 + (warp >> 2) * 8192", "out_shared + 16384 + (1 - (warp >> 2)) * 8192"), Race),
    "another panel": (swapped("(warp >> 2) * 8192, 64, i0", "(warp >> 2) * 8192, 0, i0", 1), WRONG),
    "another permutation": (swapped("(ft % 8 ^ r & 7)", "(ft % 8 ^ r & 3)", 1), WRONG),
    "no scaling of sums": (swapped("] = mul(alpha[rt, hf], acc", "] = mul(1.0, acc", 1), WRONG),
    "the mask of the next key": (swapped("j = resize(now + first_key", "j = resize(now + first_key + 1", 1), WRONG),
    "every tile is full": (swapped("full = certain and", "full = True or", 1), WRONG),
}  # fmt: skip

BLOCK = {
    "no mbar_fence": (planted("mbar_fence()\nbarrier()", "barrier()"), Fault),
    "no barrier behind it": (planted("mbar_fence()\nbarrier()", "mbar_fence()"), Fault),
    "registers are not given back": (planted("registers_less(40)"), Deadlock),
    "more registers than there are": (swapped("registers_more(232)", "registers_more(240)", 1), Deadlock),
    "no consumer begins": (planted("named_arrive(8, 256)", "pass"), Deadlock),
    "no turns are given": (planted("named_arrive(where", "pass"), Deadlock),
    "no turns are taken": (planted("named_barrier(8 + (warp >> 2), 256)"), Fault),
    "both consumers begin": (swapped("if warp >> 2 == 1:", "if True:", 1), Fault),
    "all warps of the producer produce": (swapped("if warp == -4:", "if warp < 0:", 1), Race),
    "the producer does not say that it ends": (planted(f"{arrive('bars')}\nbreak", "break"), Deadlock),
    "the producer does not say that tiles end": (planted(f"{arrive(full('K'))}\n{turn('K')}", turn("K")), Deadlock),
    "it is not said which tile has come": (planted("store_shared_r(slot + 8 + 8 * (turn_K & 1), where"), Deadlock),
}  # fmt: skip

EMPTY = empty("K")
FENCED = "async_fence()\nnamed_barrier(1, 256)"


def first_vectors(text):
    """The stage of an item's first keys is released before all that is computed from them has been."""
    text = planted("# y: vectors of the keys", f"{arrive(EMPTY)}\n# y", 0)(text)
    return planted(f"hold(S)\n{arrive(EMPTY)}", "hold(S)")(text)


COMPUTED = {
    "no wait for scores": (planted(SCORES, "hold(S)"), Race),
    "computed keys are overwritten too early": (planted("named_barrier(1, 256)\n# y: ", "# y: ", 1), Race),
    "computed keys are multiplied too early": (planted(FENCED, "async_fence()", 1), Race),
    "no async_fence of computed keys": (planted(FENCED, "named_barrier(1, 256)", -1), Race),
    "keys are released too early": (first_vectors, Race),
    "keys are never released": (planted(f"{arrive(EMPTY)}\n{turn('K')}", turn("K")), Deadlock),
}  # fmt: skip


def early_rows(text):
    """Queries are released while features are read."""
    return planted("# sweep 0 over the keys", f"{arrive('bars + 8')}\n# sweep 0 over the keys")(
        planted(arrive("bars + 8"))(text)
    )


def early_keys(text):
    """And keys."""
    text = planted(f"{arrive(empty('K'))}\n{turn('K')}\nmbar_arrive_if", f"{turn('K')}\n{arrive(empty('V'))}")(text)
    return planted("K = K_shared", f"K = K_shared + (turn_K & 1) * 1024\n{arrive(empty('K'))}")(text)


IN_ORDER = {
    "keys are not waited for": (planted(f"mbar_wait({full('K')}, turn_K >> 1 & 1)"), Race),
    "values are not waited for": (planted(f"mbar_wait({full('V')}, turn_V >> 1 & 1)"), Race),
    "no wait for the product": (planted(PRODUCT, "hold(acc)\nhold(P_packed)"), Race),
    "no hold of weights": (planted("hold(acc)\nhold(P_packed)\nwgmma_fence()", "hold(acc)\nwgmma_fence()"), Fault),
    "no fence": (planted("hold(P_packed)\nwgmma_fence()", "hold(P_packed)"), Fault),
    "keys are released too early": (early_keys, Race),
    "queries are released too early": (early_rows, Race),
    "keys are never released": (planted(f"{arrive(empty('K'))}\n{turn('K')}", turn("K"), -1), Deadlock),
    "values are never released": (planted(f"{arrive(empty('V'))}\n{turn('V')}", turn("V")), Deadlock),
    "the end of the keys is never released": (planted(f"{arrive(empty('K'))}\n{turn('K')}", turn("K"), 0), Deadlock),
    "queries are never released": (planted(arrive("bars + 8")), Deadlock),
}  # fmt: skip

HEADS = {
    "the head of a group": (swapped("floordiv(h, group), 0), where(ne(k_b", "h, 0), where(ne(k_b", 1), WRONG),
    "the batch of keys": (swapped("where(ne(k_b, 0), b, 0)", "0", 1), WRONG),
    "the batch of queries": (swapped("where(ne(q_b, 0), b, 0)", "1", 1), WRONG),
    "the head of the output": (swapped("where(ne(out0_h, 0), h, 0)", "0", 1), WRONG),
    "an item is left out": (swapped("lt(number, items)", "lt(number + 1, items)", 1), WRONG),
    "an item too many": (swapped("lt(number, items)", "le(number, items)", 1), WRONG),
    "items are taken twice": (swapped("broadcast(atomic_next(eq(lane, 0), scratch))", "floordiv(broadcast(atomic_next(eq(lane, 0), scratch)), 2)", 1), WRONG),
    "an item again and again": (swapped("add(first_head, mod(rest, wide))", "add(first_head, mod(rest, 2))", 1), WRONG),
    "every second head": (swapped("b, h = floordiv(item, heads), mod(item, heads)", "b, h = floordiv(item, heads), 0", 2), WRONG),
}  # fmt: skip

FLAGS = {
    "no flags": (swapped("and_(vote_any(more), eq(lane, 0))", "and_(vote_any(more), eq(lane, 32))", 1), WRONG),
    "flags of one consumer": (swapped("tile * 2 + (warp >> 2)), 1)", "tile * 2), 1)", 1), WRONG),
    "flags of one sign": (swapped("ne(value, 0.0)", "lt(value, 0.0)", 1), WRONG),
    "flags of rows that are not there": (swapped("and_(ne(value, 0.0), lt(first_row + 16 * rt + 8 * hf, ni))", "ne(value, 0.0)", 1), OutOfBounds),
    "flags of one lane": (swapped("vote_any(more)", "more", 1), WRONG),
    "flags of one feature": (swapped("value = fma(acc[rt, ft, 2 * hf + e], 0.0, value)", "value = fma(acc[rt, 8, 2 * hf + e], 0.0, value)", 1), WRONG),
}  # fmt: skip
GROUPS = {
    "waits": WAITS, "descriptors": DESCRIPTORS, "rings": RINGS, "copies": COPIES, "outputs": OUTPUTS, "block": BLOCK,
    "qk_norm": COMPUTED, "in order": IN_ORDER, "heads": HEADS, "flags": FLAGS,
}  # fmt: skip
OTHERS = {"qk_norm": "qk_norm", "in order": "l2_distance", "heads": "heads"}
POISONS = {"flags": infinite}


@pytest.mark.parametrize(
    ("name", "poison"), [*((name, nothing) for name in SHAPES), ("causal", infinite), ("heads", last)]
)
def test_without_a_fault_all_is_right(name, poison):
    found = start(name, poison=poison)
    assert is_right(name, found, poison), str(found.report())
    assert found.flags.tolist() == {nothing: [0] * len(found.flags), infinite: [1, 1, 1], last: [0, 0, 1, 1]}[poison]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in GROUPS[group]])
def test_a_planted_fault_is_noticed(group, name):
    caught(OTHERS.get(group, "causal"), *GROUPS[group][name], POISONS.get(group, nothing))


def test_the_flag_of_another_head_is_noticed():
    caught("heads", swapped("(item * floordiv(q_len", "(0 * floordiv(q_len", 1), WRONG, last)
