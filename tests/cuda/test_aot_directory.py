"""Directories of kernels: what stands in them, the same bytes each time, what is added, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pretended
import pytest
from typer.testing import CliRunner

import attnc as at
import attnc.variants as library
from attnc import cli
from attnc.aot import build as module
from attnc.aot.build import Request, build
from attnc.aot.choose import kernels, specialised
from attnc.aot.files import executable, manifests, read_manifest
from attnc.aot.manifest import node_records
from attnc.aot.record import read, write
from attnc.backends.arguments import layout
from attnc.backends.cuda.check import Rows
from attnc.compile import lower
from attnc.dsl.signature import signature
from attnc.errors import AttncError, DeviceError, KernelFileError, OperandError, OutputError, UnsupportedError
from attnc.lse import with_lse
from attnc.runtime.binding import bind

ALL, NONE = Rows(True, True), Rows(False, True)


@at.attention
def shifted(q, k, v, h, i, j, *, bias: at.Tensor["h", "n"], step: at.Const[int] = 2, cut: float | None = None):
    """A bias by distance."""
    s = at.dot(q, k) + bias[h, at.abs(i - j) // step]
    return at.softmax(s if cut is None else at.minimum(s, cut)) @ v


@pytest.fixture
def pretend(monkeypatch):
    """Nothing is compiled."""
    monkeypatch.setattr(module, "cuda_executable", pretended.executable)


def arrays(dtype=np.float16, D=64, Dv=None, L=40):
    """Of any length, in little memory: all queries, keys and values are the same."""
    rng = np.random.default_rng(0)
    return [np.broadcast_to(rng.standard_normal((1, 2, 1, n)).astype(dtype), (1, 2, L, n)) for n in (D, D, Dv or D)]


def bound(variant, *inputs, **operands):
    return bind(variant.signature, *inputs, operands)


def asked(dtype="float16", **changes):
    return Request(dtypes=(dtype,), dims=((64, 64),), **changes)


def has_lse(graph):
    try:
        return bool(with_lse(graph))
    except OutputError:  # no softmax
        return False


@pytest.mark.parametrize("name", library.__all__)
def test_a_manifest_holds_the_whole_formula(name, tmp_path, pretend):
    variant = getattr(library, name)
    lse = has_lse(variant.graph)
    others = set(layout(lower(variant.graph)).features) - {"d", "e"}
    file = build(variant, asked(lse=lse, extents=dict.fromkeys(others, 16)), tmp_path)
    manifest = read_manifest(file)
    (found,) = manifest.specialised
    graph = found.graph(name)
    assert node_records(graph)[0] == found.nodes
    assert found.layout() == layout(lower(graph))
    assert manifest.signature() == signature(variant.function)
    assert [x.op for x in graph.outputs] == [variant.graph.outputs[0].op, "lse"][: 1 + lse]


def test_equal_programs_give_equal_files(tmp_path, pretend):
    for folder in ("one", "two"):
        build(shifted, asked(constants={"step": 3}, scalars=("cut",), extents={"n": 9}), tmp_path / folder)
    files = sorted(x.name for x in (tmp_path / "one").iterdir())
    assert len(files) == 3 and files == sorted(x.name for x in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    text = (tmp_path / "one" / "shifted.json").read_text()
    assert max(map(len, text.splitlines())) <= 160 and str(tmp_path) not in text and "seconds" not in text


def test_a_manifest_is_read_as_it_was_written(tmp_path, pretend):
    manifest = read_manifest(build(library.document, asked(), tmp_path))
    assert read(type(manifest), write(manifest)) == manifest
    assert [stage.role for stage in manifest.specialised[0].kernels[0].stages] == ["summary", "main"]


def test_the_executable_is_what_was_compiled(tmp_path, pretend):
    file = build(library.document, asked(), tmp_path)
    (found,) = read_manifest(file).specialised
    chosen = next(x for x in found.kernels if x.aligned)
    graph = found.graph("document")
    live = pretended.executable(
        graph, lower(graph), module.Problem("float16", chosen.features, {}, small=True), "sm_90", True
    )
    made = executable(tmp_path, chosen, found.layout())
    assert [(x.role, x.code, x.parameters, x.threads) for x in made.stages] == [
        (x.role, x.code, x.parameters, x.threads) for x in live.stages
    ]
    assert (made.target, made.layout, made.rows, made.aligned) == (live.target, live.layout, live.rows, live.aligned)


def test_a_call_gets_the_best_kernels_that_serve_it(tmp_path, pretend):
    manifest = read_manifest(build(library.sliding_window, asked(long=True), tmp_path))
    q, k, v = arrays()
    call = bound(library.sliding_window, q, k, v, window=8)
    found = specialised(manifest, call, False)
    best = kernels(manifest, found, call, (9, 0), ALL)
    assert (best.small, best.aligned) == (True, True)
    assert not kernels(manifest, found, call, (9, 0), NONE).aligned
    far = bound(library.sliding_window, q, k, v, window=2**21)
    assert not kernels(manifest, found, far, (9, 0), ALL).small


def test_any_rows_are_built_where_no_row_can_be_aligned(tmp_path, pretend):
    manifest = read_manifest(build(library.full, Request(dims=((7, 13),)), tmp_path))
    assert [x.aligned for x in manifest.specialised[0].kernels] == [False]


def test_add_keeps_what_was_there(tmp_path, pretend):
    build(library.t5, asked(), tmp_path)
    file = build(library.t5, asked("float32", constants={"bidirectional": False}), tmp_path, add=True)
    found = read_manifest(build(library.t5, asked("float32"), tmp_path, add=True)).specialised
    assert [(x.constants["bidirectional"], {y.dtype for y in x.kernels}) for x in found] == [
        (False, {"float32"}),
        (True, {"float16", "float32"}),
    ]
    build(library.t5, asked(), tmp_path)
    assert len(read_manifest(file).specialised) == 1
    assert len(list(tmp_path.glob("*.cubin"))) == 2  # the others, which nothing names, are gone


def test_a_changed_formula_is_not_added_to(tmp_path, pretend):
    def variant(power):
        def same(q, k, v):
            return at.softmax(at.dot(q, k) * power) @ v

        return at.attention(same)

    build(variant(2.0), asked(), tmp_path)
    with pytest.raises(KernelFileError, match="without --add"):
        build(variant(3.0), asked(), tmp_path, add=True)
    build(variant(3.0), asked(), tmp_path)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"constants": {"bias": 1}}, OperandError, "no such operand"),
        ({"tables": {"nothing": "float32"}}, OperandError, "bias"),
        ({"scalars": ("bias",)}, OperandError, "cut"),
        ({"tables": {"bias": "float99"}}, OperandError, "float99"),
        ({"constants": {"step": 1.5}}, OperandError, "declared"),
        ({"dtypes": ("float64",)}, UnsupportedError, "bfloat16"),
        ({"target": "sm_70"}, UnsupportedError, "sm_80"),
    ],
    ids=str,
)
def test_requests_that_do_not_fit_are_refused(options, error, words, tmp_path, pretend):
    with pytest.raises(error, match=words):
        build(shifted, Request(**options), tmp_path)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: bound(shifted, *arrays(np.float32), bias=np.ones((2, 50), np.float16)), UnsupportedError, "float32"),
        (lambda: bound(shifted, *arrays(D=32), bias=np.ones((2, 50), np.float16)), UnsupportedError, "--head-dim 32"),
        (lambda: bound(shifted, *arrays(Dv=32), bias=np.ones((2, 50), np.float16)), UnsupportedError, "--value-dim 32"),
        (lambda: bound(shifted, *arrays(), bias=np.ones((2, 50), np.float32)), UnsupportedError, "bias=float32"),
        (lambda: bound(shifted, *arrays(), bias=np.ones((2, 50), int)), UnsupportedError, "bias=int64"),
        (lambda: bound(shifted, *arrays(), bias=np.ones((2, 50), np.float16), step=5), UnsupportedError, "step=5"),
        (lambda: bound(shifted, *arrays(), bias=np.ones((2, 50), np.float16), cut=1.0), UnsupportedError, "--scalar cut"),
        (lambda: bound(shifted, *arrays(L=2**21), bias=np.ones((2, 50), np.float16)), UnsupportedError, "--long"),
    ],
    ids=["dtype", "head dim", "value dim", "table", "kind", "constant", "optional", "long"],
)  # fmt: skip
def test_what_was_not_built_is_refused_with_the_command_that_builds_it(call, error, words, tmp_path, pretend):
    manifest, given = read_manifest(build(shifted, asked(), tmp_path)), call()
    with pytest.raises(error, match=words) as caught:
        kernels(manifest, specialised(manifest, given, False), given, (9, 0), ALL)
    assert "attnc build FILE:shifted" in caught.value.cure and "built" in caught.value.cause
    assert Path(caught.value.where.file).name == Path(__file__).name


def test_another_architecture_is_refused(tmp_path, pretend):
    manifest = read_manifest(build(shifted, asked(), tmp_path))
    given = bound(shifted, *arrays(), bias=np.ones((2, 50), np.float16))
    found = specialised(manifest, given, False)
    with pytest.raises(DeviceError, match="--target sm_80"):
        kernels(manifest, found, given, (8, 0), ALL)
    with pytest.raises(UnsupportedError, match="--lse"):
        specialised(manifest, given, True)


def test_only_aligned_rows_can_be_built(tmp_path, pretend):
    manifest = read_manifest(build(library.full, asked(rows=("aligned",)), tmp_path))
    given = bound(library.full, *arrays())
    with pytest.raises(UnsupportedError, match="not aligned"):
        kernels(manifest, specialised(manifest, given, False), given, (9, 0), NONE)


def damaged(file, change):
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


DAMAGE = {
    "empty": (lambda file: file.write_text(""), "damaged manifest"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:500]), "damaged manifest"),
    "binary": (lambda file: file.write_bytes(b"\xff\x00\x80"), "damaged manifest"),
    "foreign": (lambda file: file.write_text('{"name": "x"}'), "not a manifest"),
    "list": (lambda file: file.write_text("[]"), "not a manifest"),
    "format": (lambda file: damaged(file, lambda x: x.update(format=99)), "reads 2"),
    "old": (lambda file: damaged(file, lambda x: x.update(format=1)), "its format is 1; attnc .* reads 2"),
    "version": (lambda file: damaged(file, lambda x: x.update(attnc="0.0.1")), "0.0.1"),
    "field": (lambda file: damaged(file, lambda x: x.pop("roles")), "roles"),
    "type": (lambda file: damaged(file, lambda x: x["specialised"][0].update(lse=1)), "lse"),
    "graph": (lambda file: damaged(file, lambda x: x["specialised"][0].update(outputs=[99])), "damaged"),
    "op": (lambda file: damaged(file, lambda x: x["specialised"][0]["nodes"][0].update(op="system")), "system"),
    "gone": (lambda file: file.unlink(), "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_manifests_are_refused(kind, tmp_path, pretend):
    file = build(library.causal, asked(), tmp_path)
    change, words = DAMAGE[kind]
    change(file)
    with pytest.raises(KernelFileError, match=words) as caught:
        read_manifest(file)
    assert str(file) in str(caught.value) and caught.value.cure


def test_damaged_and_missing_cubins_are_refused(tmp_path, pretend):
    file = build(library.causal, asked(), tmp_path)
    (found,) = read_manifest(file).specialised
    cubin = tmp_path / found.kernels[0].stages[0].file
    cubin.write_bytes(cubin.read_bytes()[:-1])
    with pytest.raises(KernelFileError, match="checksum"):
        executable(tmp_path, found.kernels[0], found.layout())
    cubin.unlink()
    with pytest.raises(KernelFileError, match="missing"):
        executable(tmp_path, found.kernels[0], found.layout())


def test_directories_that_are_none(tmp_path):
    for path, words in ((tmp_path / "no", "does not exist"), (tmp_path, "no .json"), (__file__, "is a file")):
        with pytest.raises(KernelFileError, match=words):
            manifests(Path(path))


def test_a_folder_that_cannot_be_written(tmp_path, pretend):
    (tmp_path / "file").write_text("")
    with pytest.raises(KernelFileError, match="cannot be written"):
        build(library.causal, asked(), tmp_path / "file" / "below")


def command(*arguments):
    return CliRunner().invoke(cli.app, ["build", *map(str, arguments)], catch_exceptions=False)


def test_the_command(tmp_path, pretend):
    file = tmp_path / "mine.py"
    file.write_text(
        "import attnc as at\n\n\n@at.attention\ndef near(q, k, v, i, j, *, n: at.Const[int]):\n"
        "    return at.softmax(at.dot(q, k), where=at.abs(i - j) < n) @ v\n"
    )
    out = tmp_path / "out"
    with pytest.raises(OperandError, match="--const n: causal"):
        command(f"{file}:near", "causal", "--const", "n=3", "--out", out)
    done = command(f"{file}:near", "--const", "n=3", "--dtype", "f16", "--dtype", "bf16", "--out", out)
    assert done.exit_code == 0 and done.output.count("n=3") == 4 and "100 registers" in done.output
    done = command("causal", "--head-dim", 64, "--head-dim", 128, "--value-dim", 32, "--value-dim", 64, "--out", out)
    assert "d 128, e 64, aligned rows" in done.output and [x.name for x in manifests(out)] == [
        "causal.json",
        "near.json",
    ]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--const", "step"], "NAME=VALUE"),
        (["--extent", "n=0"], "positive"),
        (["--head-dim", "64", "--head-dim", "32", "--value-dim", "8"], "each --head-dim"),
        (["--dtype", "float8"], "one of bfloat16"),
    ],
    ids=str,
)
def test_options_that_cannot_be_read(options, words, tmp_path, pretend):
    with pytest.raises(AttncError, match=words):
        command("causal", *options, "--out", tmp_path)
