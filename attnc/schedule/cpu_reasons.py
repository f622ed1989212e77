"""Why a call on the CPU has its schedule and its form: what `explain` says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attnc.schedule.cpu_form import QUERIES, SHORTEST, VECTORS, CpuForm, least, most, part, parts, piece, rows
from attnc.schedule.schedule import Schedule
from attnc.schedule.target import Target


def reasons(
    schedule: Schedule,
    target: Target,
    form: CpuForm,
    extents: Mapping[str, int],
    unshared: str,
    unsplit: str,
    quadratic: str,
) -> Iterator[str]:
    """Sentences. unshared, unsplit, quadratic: why the program can have no form that shares, splits, or is linear; "" where it can."""
    tall, wide = schedule.tile
    if not form.few:
        yield (
            f"vectors of {target.vector_bytes} bytes are {schedule.width} lanes; of {target.registers} registers, matrix products "
            f"fill {tall} x {wide} with results"
        )
    yield from _time(form, extents, quadratic)
    if extents["q_len"] > QUERIES or form.linear:
        return
    q_len, kv_len, group = extents["q_len"], extents["kv_len"], extents["group"]
    if kv_len <= SHORTEST:
        yield f"few queries, but no more than {SHORTEST} keys: the kernel for any number of queries"
        return
    count = rows(q_len, group, form.share)
    if form.few:
        yield (
            f"few queries: {count} of at most {schedule.rows} rows, so products have features in {schedule.wide} lanes, all else "
            f"has rows in {schedule.width}"
        )
    elif count > most(schedule.width):
        yield f"few queries, but {count} rows are more than {most(schedule.width)}: products have rows in the lanes"
    else:
        yield f"few queries, but more than {VECTORS} vectors of features: products have rows in the lanes"
    if form.long:
        yield "keys are only passed over, so tiles are long: memory is read in long runs"
    if form.share:
        yield f"a tile's rows are the queries of all {group} query heads that share a key-value head"
    elif group > 1:
        yield f"query heads of a group share no tile: {unshared}"
    if form.split:
        yield f"keys are split into {parts(kv_len, form.few)} parts of {part(kv_len, form.few)}, whose states the thread that ends the last one merges"
    elif not unsplit:
        yield f"keys are not split: they are no more than {least(False)}"
    else:
        yield f"keys are not split over threads: {unsplit}"


def _time(form: CpuForm, extents: Mapping[str, int], quadratic: str) -> Iterator[str]:
    """Whether a call takes linear time."""
    if quadratic:
        yield f"time grows with the pairs that are visited: {quadratic}"
    elif not form.linear:
        yield "time grows with the pairs that are visited: linear time would cost more for so few queries and keys"
    else:
        yield "linear time: keys that all queries of a tile see are read once, into states that go from tile to tile"
        length = piece(extents["q_len"], extents["kv_len"])
        if max(extents["q_len"], extents["kv_len"]) > length:
            yield f"pieces of {length} queries, or keys, are worked on at once: the states of all come first"
