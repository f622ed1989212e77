"""The command `attnc`: run, check, look at and measure variants."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import attnc
from attnc.errors import AttncError

app = typer.Typer(
    help="attnc compiles attention variants. FILE is a Python file, or the name of a variant of the library.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="The directory of compiled kernels.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Target = Annotated[str, typer.Argument(metavar="FILE[:NAME]", help="A file, a variant in it, or a library variant.")]
Stage = Literal["graph", "fused", "tile", "source"]
Length = Annotated[int, typer.Option(help="Queries and keys.")]
KeyLength = Annotated[int | None, typer.Option(help="Keys, where they are not as many as queries.")]
Heads = Annotated[int, typer.Option(help="Query heads.")]
KeyHeads = Annotated[int | None, typer.Option(help="Key heads, where fewer than query heads.")]
Dim = Annotated[int, typer.Option(help="Head dim of q and k.")]
ValueDim = Annotated[int | None, typer.Option(help="Head dim of v, where another.")]
DType = Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")]
Seed = Annotated[int, typer.Option(help="Of the random inputs.")]


def main() -> None:
    """The console script: errors of attnc are printed without a traceback, exit code 1."""
    try:
        app()
    except AttncError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


def _print(text: str) -> None:
    typer.echo(text)


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table, numbers on the right; as wide as its text where the output is no terminal."""
    table = Table(title=title, title_justify="left")
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=160)).print(table)


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def run(
    target: Target,
    arguments: Annotated[list[str] | None, typer.Argument(help="For the file, as sys.argv[1:].")] = None,
) -> None:
    """Run a file as a script; or one variant (FILE:NAME, or of the library) on random inputs."""
    from attnc.fuzz.targets import is_script, run_script

    if is_script(target):
        run_script(target, arguments or [])
        return
    import time

    for variant, inputs, operands in _calls(target, 512, None, 8, None, 64, None, "float32", 0):
        variant(*inputs, **operands)
        start = time.perf_counter()
        found = variant(*inputs, **operands)
        seconds = time.perf_counter() - start
        outputs = found if isinstance(found, tuple) else (found,)
        shapes = ", ".join(f"{x.dtype} {x.shape}" for x in outputs)
        _print(f"{variant.__name__}: {shapes} in {seconds * 1e3:.2f} ms; {variant.verify(*inputs, **operands)}")


@app.command()
def check(
    target: Target,
    everything: Annotated[bool, typer.Option("--all", help="Every combination: hours.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few small settings: a minute.")] = False,
    seed: Seed = 0,
) -> None:
    """Verify variants on random inputs: by default a pairwise cover of head dims, lengths, dtypes, heads, strides, layouts."""
    from attnc.fuzz.check import check as check_variant
    from attnc.fuzz.check import settings
    from attnc.fuzz.targets import variants

    chosen = settings("all" if everything else "quick" if quick else "pairs")
    failed = False
    for variant in variants(target):
        console = Console(stderr=True)
        outcomes = check_variant(variant, chosen, seed)
        seen = list(
            track(outcomes, variant.__name__, total=len(chosen), console=console, disable=not console.is_terminal)
        )
        wrong = [x for x in seen if x.ok is False]
        refused = [x for x in seen if x.ok is None]
        if wrong or refused:
            rows = [
                [str(x.setting), "refused" if x.ok is None else f"{x.ratio:.2f}", x.text] for x in [*wrong, *refused]
            ]
            _table(variant.__name__, ["setting", "error / allowed", "what"], rows[:50])
        worst = max((x.ratio for x in seen), default=0.0)
        _print(
            f"{variant.__name__}: {len(seen) - len(wrong) - len(refused)} of {len(seen)} ok, {len(wrong)} wrong, "
            f"{len(refused)} refused, largest error {worst:.2f} of the allowed"
        )
        failed = failed or bool(wrong or refused)
    if failed:
        raise typer.Exit(1)


def _calls(
    target: str, length: int, kv_length: int | None, heads: int, kv_heads: int | None, dim: int, value_dim: int | None,
    dtype: str, seed: int,
) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:  # fmt: skip
    """The variants with random inputs and operands."""
    import numpy as np

    from attnc.fuzz.samples import Setting, arrays, operands
    from attnc.fuzz.scribe import FLOATS
    from attnc.fuzz.targets import variants

    if dtype not in FLOATS:
        raise AttncError(f"dtype {dtype!r}", cause="unknown", cure=f"one of {', '.join(FLOATS)}")
    if heads % (kv_heads or heads):
        raise AttncError(
            f"{heads} heads, {kv_heads} key heads", cause="no whole group", cure="--heads a multiple of --kv-heads"
        )
    setting = Setting(dim, value_dim or dim, (length, kv_length or length), dtype, (heads, kv_heads or heads))
    rng = np.random.default_rng(seed)
    return [(x, arrays(setting, rng), operands(x, setting, rng)) for x in variants(target)]


@app.command()
def show(
    target: Target, stage: Annotated[Stage, typer.Option(help="How far down the pipeline.")] = "graph", length: Length = 1024,
    kv_length: KeyLength = None, heads: Heads = 8, kv_heads: KeyHeads = None, dim: Dim = 64, value_dim: ValueDim = None,
    dtype: DType = "float32", seed: Seed = 0,
) -> None:  # fmt: skip
    """Print a variant at a stage: the traced graph, the fused sweeps, the tile program, the emitted kernel."""
    from rich.syntax import Syntax

    for variant, inputs, operands in _calls(target, length, kv_length, heads, kv_heads, dim, value_dim, dtype, seed):
        text = variant.show(stage, *inputs, **operands)
        console = Console()
        if console.is_terminal and stage == "source":
            console.print(Syntax(text, "python"))
        else:
            _print(text)


@app.command()
def explain(
    target: Target, length: Length = 1024, kv_length: KeyLength = None, heads: Heads = 8, kv_heads: KeyHeads = None,
    dim: Dim = 64, value_dim: ValueDim = None, dtype: DType = "float32", seed: Seed = 0,
) -> None:  # fmt: skip
    """Print a variant's plan: sweeps and why, empty and full tiles, work, schedule."""
    for variant, inputs, operands in _calls(target, length, kv_length, heads, kv_heads, dim, value_dim, dtype, seed):
        _print(variant.explain(*inputs, **operands))


@app.command()
def build(
    targets: Annotated[list[str], typer.Argument(metavar="FILE[:NAME]...", help="As for `run`; several are built alike.")],
    out: Annotated[Path, typer.Option(help="The directory.")],
    target: Annotated[str, typer.Option(help="The GPU's architecture.")] = "sm_90",
    dtype: Annotated[list[str] | None, typer.Option(help="bf16, f16 or f32; may be repeated.")] = None,
    head_dim: Annotated[list[int] | None, typer.Option(help="Of q and k; may be repeated. 128 by default.", min=1)] = None,
    value_dim: Annotated[list[int] | None, typer.Option(help="Of v, where another: one for each --head-dim.", min=1)] = None,
    const: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A compile-time constant.")] = None,
    table: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DTYPE", help="An array operand, where its dtype is not q's, int64 or bool, or it is optional.")
    ] = None,
    scalar: Annotated[list[str] | None, typer.Option(metavar="NAME", help="An optional number that calls will give.")] = None,
    extent: Annotated[list[str] | None, typer.Option(metavar="AXIS=N", help="Of a feature axis that only operands have.")] = None,
    lse: Annotated[bool, typer.Option("--lse", help="For calls with return_lse=True.")] = False,
    aligned_only: Annotated[bool, typer.Option("--aligned-only", help="Leave out kernels for rows that are not aligned.")] = False,
    long: Annotated[bool, typer.Option("--long", help="Also for lengths or integer operands beyond 2**20.")] = False,
    short: Annotated[bool, typer.Option("--short", help="Also kernels of their own for calls with up to 16 queries.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Keep what the directory holds of the same variant.")] = False,
) -> None:  # fmt: skip
    """Compile variants for a GPU into a directory, which `attnc.load` runs without a compiler. Needs no GPU."""
    from attnc.aot.build import build as build_variant
    from attnc.aot.files import described
    from attnc.aot.options import request
    from attnc.fuzz.targets import variants

    asked = request(
        target=target, dtypes=dtype or ["bf16"], dims=head_dim or [128], value_dims=value_dim or [], constants=const or [],
        tables=table or [], scalars=scalar or [], extents=extent or [], lse=lse, aligned_only=aligned_only, long=long, short=short,
    )  # fmt: skip
    for variant in [x for text in targets for x in variants(text)]:
        _print(described(build_variant(variant, asked, out, add=add)))


@app.command()
def fuzz(
    seed: Seed = 0,
    programs: Annotated[int, typer.Option(help="Compared between graph and tile interpreter.")] = 2000,
    kernels: Annotated[int, typer.Option(help="Compiled and verified.")] = 200,
) -> None:
    """Compare random programs over the whole language at every level."""
    from attnc.fuzz import fuzz as fuzz_programs

    if not fuzz_programs(seed, programs, kernels, report=_print).ok:
        raise typer.Exit(1)


@app.command()
def bench(
    suite: Annotated[
        Literal["cpu", "avx2", "decode", "sparse", "scores", "linear", "overhead", "compile", "cuda", "cuda-static"],
        typer.Argument(
            help="cpu: dense, causal, dtypes, score functions, threads. avx2: its dense rows without AVX-512. decode: few queries. "
            "sparse: masks. scores: those that are no products. linear: linear time. overhead: a call in Python. compile: first calls. cuda: on a GPU. cuda-static: what the compiler makes of "
            "CUDA kernels, without a GPU."
        ),
    ],
    only: Annotated[list[str] | None, typer.Option(metavar="ROW", help="A row, or a pattern: 'dense*'; may be repeated.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Calls of each, alternating; by default 15, fewer (5 at least) where a row would take over 20 s.", min=1)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of attnc and of its peers; by default attnc's.", min=1)] = None,
    peers: Annotated[
        str | None, typer.Option(help="Some of SDPA,flex,NumPy,onnxruntime,jax; by default all, --quick without flex, whose first call takes a minute.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, 2 rounds: does it run?")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the result, all times included.", dir_okay=False)] = None,
    compare: Annotated[Path | None, typer.Option(metavar="OLD.json", help="Print the change since an older result.", exists=True)] = None,
    kernels: Annotated[Path | None, typer.Option(help="Of `cuda`: a directory of `attnc build`.")] = None,
    beside: Annotated[list[Path] | None, typer.Option(help="Of `cuda`: another one, measured beside; may be repeated.")] = None,
) -> None:  # fmt: skip
    """Measure speed beside other attentions, in turn: ratios are a peer's time over attnc's, with quartiles, beside what is aimed at."""
    if suite == "cuda":
        _bench_cuda(rounds or 20, kernels, beside or [])
        return
    if suite == "cuda-static":
        from attnc.bench.cuda_static import bench_cuda_static, table

        title = "CUDA kernels in bfloat16, compiled anew after the compiler's first import; bytes, and seconds"
        _table(title, *table(list(bench_cuda_static())))
        return
    from attnc.backends.cpu.threads import get_num_threads
    from attnc.bench import report
    from attnc.bench.suite import known_peers, run, select, specs
    from attnc.bench.timing import Settings

    settings = Settings(threads or get_num_threads(), rounds, quick, known_peers(peers, quick))
    before = report.Report.load(compare) if compare is not None else None
    chosen, console = select(specs(suite, quick), only or []), Console(stderr=True)
    rows = track(run(chosen, settings), suite, total=len(chosen), console=console, disable=not console.is_terminal)
    found = report.report(suite, rows, settings)
    _table(report.title(found), report.COLUMNS, report.table(found.rows))
    if json is not None:
        found.save(json)
    if before is not None:
        _table(f"{report.title(before)}; and now", report.COMPARED, report.compare(before, found))


@app.command("bench-table")
def bench_table(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Of `attnc bench --json`.", exists=True)],
    aims: Annotated[bool, typer.Option("--aims", help="Only what has an aim.")] = False,
) -> None:
    """Print saved results as one Markdown table."""
    from attnc.bench.report import Report, markdown

    _print(markdown([Report.load(x) for x in files], aims))


def _bench_cuda(rounds: int, kernels: Path | None, beside: list[Path]) -> None:
    from attnc.bench.gpu import bench_gpu, conditions, launch_seconds, others, problems, source, table
    from attnc.bench.report import show

    folder = None if kernels is None else str(kernels)
    title = conditions(rounds, folder)
    variant = source(folder)
    seconds = launch_seconds(variant("full"))
    rows = list(bench_gpu(problems(), variant, rounds, beside=others([str(x) for x in beside])))
    _table(title, *table(rows))
    _print(f"a call takes the host {show(seconds, 's')} (aim: 15 µs at most)")


@app.command()
def doctor() -> None:
    """Print what attnc finds on this machine, then compile and verify a tiny variant."""
    from attnc.bench.doctor import facts, trial

    _table(f"attnc {attnc.__version__}", ["what", "found"], [[name, value] for name, value in facts()])
    ok, text = trial()
    _print(text)
    if not ok:
        raise typer.Exit(1)


@cache_app.command("list")
def cache_list() -> None:
    """List the kernels, and the pieces of code that they share. Notes of which kernel serves what are only counted."""
    from attnc.runtime.cache import Cache

    cache = Cache()
    found = list(cache.entries())
    rows = [
        [e.key[:12], _title(e.source), str(e.report.get("backend", "")), f"{len(e.code) / 1024:.0f}", str(e.report.get("seconds", ""))]
        for e in found if e.code
    ]  # fmt: skip
    _table(str(cache.path), ["key", "variant", "backend", "code KiB", "compile s"], rows)
    _print(f"{len(found)} entries, {cache.size / 2**20:.1f} MiB in {cache.path}")


def _title(source: str) -> str:
    """The first line of the emitted module's docstring: the variant's name."""
    return source.lstrip('"# \n').partition("\n")[0].strip('" ')


@cache_app.command("clear")
def cache_clear() -> None:
    """Remove everything."""
    from attnc.runtime.cache import Cache

    cache = Cache()
    _print(f"removed {cache.clear()} entries from {cache.path}")


@cache_app.command("path")
def cache_path() -> None:
    """Print the directory."""
    from attnc.runtime.cache import Cache

    _print(str(Cache().path))


if __name__ == "__main__":
    main()
