"""What `attnc bench sparse` and `attnc bench cuda-static` print: columns, and rows of text."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.bench.cuda_static import StaticRow
from attnc.bench.long import LongRow
from attnc.bench.sparse import Peer, SparseRow

Table = tuple[list[str], list[list[str]]]


def own(rows: Sequence[SparseRow]) -> Table:
    """What attnc does: time, tiles, work."""
    columns = [
        "attnc", "Q, K, V", "ms", "analysis ms", "of it", "full tiles", "partial", "pairs visited / needed", "partial / full tile",
    ]  # fmt: skip
    return columns, [
        [
            r.problem.name, "x".join(map(str, r.problem.shape)), f"{r.seconds * 1e3:.1f}", f"{r.analysis * 1e3:.2f}",
            f"{r.analysis / r.seconds:.1%}", str(r.tiles.full), str(r.tiles.partial), f"{r.waste:.2f}", f"{r.partial_tile:.2f}",
        ]
        for r in rows
    ]  # fmt: skip


def beside(rows: Sequence[SparseRow]) -> Table:
    """The peers: time of the call, of the mask, and how many times attnc's time (its analysis included) that is."""
    columns = [
        "problem", "peer", "ms", "mask ms", "call / attnc", "with its mask", "aim", "mask / analysis",
        "pairs visited / needed", "difference",
    ]  # fmt: skip
    return columns, [_beside(r, peer) for r in rows for peer in r.peers]


def _beside(r: SparseRow, peer: Peer) -> list[str]:
    start = [r.problem.name, peer.name]
    if peer.failed:
        return [*start, peer.failed]
    return [
        *start, f"{peer.seconds * 1e3:.1f}", f"{peer.analysis * 1e3:.1f}", f"{peer.seconds / r.seconds:.2f}",
        f"{(peer.seconds + peer.analysis) / r.seconds:.2f}", f"{peer.aim:g}" if peer.aim is not None else "",
        f"{peer.analysis / r.analysis:.0f}", f"{peer.pairs / r.problem.needed:.2f}", f"{peer.difference:.0e}",
    ]  # fmt: skip


def static(rows: Sequence[StaticRow]) -> Table:
    """What kernels take of a GPU, and of the compiler."""
    columns = [
        "variant", "D", "target", "queries x keys", "warps", "registers", "spills", "stack", "shared", "blocks at once",
        "HMMA in loop", "compile s", "CPU s", "lines",
    ]  # fmt: skip
    return columns, [
        [
            r.name, str(r.dim), r.target, f"{r.schedule.rows} x {r.schedule.keys}", str(r.schedule.warps),
            str(r.report.registers), str(r.report.spilled), str(r.report.stack), str(r.shared_bytes), str(r.resident),
            str(r.loop), f"{r.seconds:.1f}", f"{r.cpu_seconds:.1f}", str(r.lines),
        ]
        for r in rows
    ]  # fmt: skip


def long(r: LongRow) -> Table:
    """The long call, beside its aims."""
    return ["long", "measured", "aim"], [
        [f"{r.length} queries and keys, window {r.window}, D {r.dim}", f"{r.seconds:.3g} s", ""],
        ["memory above inputs and output", f"{max(r.memory, 0) / 2**20:.1f} MiB", "< 64 MiB"],
        ["analysis", f"{r.analysis * 1e3:.3g} ms, {r.share:.2%} of the time", "< 1%"],
        ["tiles visited", f"{r.full} full, {r.partial} partial", ""],
        ["time of a visited tile / of a dense tile", f"{r.tile:.3f}", "< 1.2"],
        ["difference from float64 on sampled rows", f"{r.difference:.0e}", ""],
    ]
