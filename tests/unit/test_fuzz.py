"""The fuzzer: its programs repeat and cover the language, agree at every level, and it sees a fault that is planted."""

import itertools
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

import attnc as at
from attnc import warm
from attnc.backends.cpu import leaves
from attnc.errors import OperandError, UnsupportedError
from attnc.fuzz import disagreement, fuzz
from attnc.fuzz.case import compiled, make
from attnc.fuzz.check import EVERYTHING, FACTORS, check, settings
from attnc.fuzz.compare import TOLERANCE, distance, farthest
from attnc.fuzz.coverage import Coverage, program_nodes
from attnc.fuzz.kernels import check_kernel, one_hot
from attnc.fuzz.pairs import pairwise
from attnc.fuzz.run import by_tiles, lowered
from attnc.fuzz.samples import Setting, arrays, operands, placed
from attnc.fuzz.shrink import shrink
from attnc.interp import ELEMENTWISE, interpret
from attnc.ir.ops import OPS
from attnc.tile.interp import run as run_tiles

SEED, POOL = 11, 500
ENOUGH = 40  # programs with an op within which a fault in it must show
ELEMENTWISE_OPS = sorted(name for name, row in OPS.items() if row.elementwise)


def program(number):
    """A program and its tile program; None where it is refused."""
    case = make(SEED, number)
    try:
        return case, lowered(case.graph)
    except UnsupportedError:
        return None


@pytest.fixture(scope="module")
def pool():
    """Programs, their tile programs, and which ops these evaluate."""
    made = [entry for number in range(POOL) if (entry := program(number)) is not None]
    having = defaultdict(list)
    for entry in made:
        for op in {x.op for x in program_nodes(entry[1])}:
            having[op].append(entry)
    return made, having


def test_graph_and_tile_interpreter_agree():
    lines = []
    summary = fuzz(SEED, 80, 0, report=lines.append)
    assert summary.ok, "\n".join(map(str, summary.failures))
    assert summary.programs == 80 and summary.worst <= TOLERANCE
    assert lines[-1] == str(summary) and "programs per op" in lines[-1] and "0 disagreements" in lines[-1]


def test_programs_repeat():
    for number in range(10):
        a, b = make(3, number), make(3, number)
        assert a.source == b.source and a.graph.key == b.graph.key and a.tile == b.tile
        np.testing.assert_array_equal(a.inputs.q, b.inputs.q)
        for name, value in a.operands.items():
            np.testing.assert_array_equal(np.asarray(value, float), np.asarray(b.operands[name], float))
    assert make(3, 0).source != make(4, 0).source


def test_a_printed_program_can_be_pasted():
    for number in range(20):
        case = make(5, number)
        space = {}
        exec(compile("import attnc as at\n" + str(case), "<pasted>", "exec"), space)
        pasted = space[case.name]
        expected = case.variant.reference(case.inputs.q, case.inputs.k, case.inputs.v, **case.operands)
        found = pasted.reference(case.inputs.q, case.inputs.k, case.inputs.v, **case.operands)
        for x, y in zip(*(r if isinstance(r, tuple) else (r,) for r in (found, expected)), strict=True):
            np.testing.assert_array_equal(x, y)


def test_programs_are_well_conditioned(pool):
    """Float32 stays close to float64, so that at 1e-10 float64 has digits to spare."""
    for case, _ in pool[0][:150]:
        exact = interpret(case.graph, case.inputs)
        single = interpret(case.graph, case.inputs, dtype=np.float32)
        for x, y in zip(exact, single, strict=True):
            assert distance(x, y) < 1e-3, case


def test_two_thousand_programs_cover_the_language(pool):
    """Every op, operand kind and depth in at least 1% of the programs: 20 of 2,000."""
    coverage = Coverage()
    for case, tiles in pool[0]:
        coverage.add(case, tiles)
    for number in range(POOL, 2000):
        if (entry := program(number)) is not None:
            coverage.add(*entry)
    assert coverage.programs > 1980
    assert coverage.rare(20) == [], str(coverage)


def planted(op):
    """The rule of an op, wrong by a little; logic turned round."""
    rule = ELEMENTWISE.get(op, lambda x: x.astype(np.float64))

    def wrong(*args):
        result = np.asarray(rule(*args))
        if result.dtype == bool:
            return ~result
        return result + (1 if result.dtype.kind == "i" else 1e-3)

    return wrong


def shows(entry, op):
    """Whether the tile interpreter with a wrong rule for op disagrees with the graph on this program."""
    case, tiles = entry
    try:
        found = run_tiles(tiles, case.inputs, tile=case.tile, rules={op: planted(op)})
    except (IndexError, TypeError, ValueError):
        return True  # an integer that became a float is seen at once
    return farthest(interpret(case.graph, case.inputs), found) > TOLERANCE


@pytest.mark.parametrize("op", ELEMENTWISE_OPS)
def test_a_wrong_rule_is_caught(pool, op):
    having = pool[1][op]
    assert len(having) >= 3, f"only {len(having)} of {POOL} tile programs evaluate {op}"
    assert any(shows(entry, op) for entry in having[:ENOUGH])


def plant(monkeypatch, op):
    """Make the CPU backend spell an op wrongly, in kernels that nobody has compiled yet."""
    monkeypatch.setattr(warm, "version", lambda: f"wrong {op}")
    if op == "cast":
        right = leaves.cast
        monkeypatch.setattr(leaves, "cast", lambda x, operand: f"add({right(x, operand)}, 1)")
    else:
        text = leaves.RULES[op]
        logic = op in ("and", "or", "xor", "not", "lt", "le", "eq", "ne")
        wrong = "where({0}, {2}, {1})" if op == "where" else f"not_({text})" if logic else f"add({text}, 1)"
        monkeypatch.setitem(leaves.RULES, op, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("op", ELEMENTWISE_OPS)
def test_a_wrong_leaf_of_the_kernel_is_caught(pool, monkeypatch, op):
    short = sorted(pool[1][op], key=lambda entry: len(str(entry[1])))
    chosen = [case for case, _ in itertools.islice((entry for entry in short if shows(entry, op)), 4)]
    plant(monkeypatch, op)
    for case in chosen:
        if check_kernel(replace(case, variant=compiled(case.name, case.source))):
            return
    pytest.fail(f"{len(chosen)} kernels with {op} did not show the fault")


def test_a_fault_is_reported_and_shrunk():
    lines = []

    def evaluate(program, inputs):
        return run_tiles(program, inputs, rules={"tanh": planted("tanh")})

    summary = fuzz(SEED, 200, 0, report=lines.append, evaluate=evaluate, most_failures=1)
    assert not summary.ok and len(summary.failures) == 1
    failure = summary.failures[0]
    assert "def fuzz_" in failure.text and "tanh" in failure.shrunk and "relative difference" in failure.what
    assert len(failure.shrunk.splitlines()) < 12
    assert str(failure) in lines


def test_an_exception_is_a_finding():
    def evaluate(program, inputs):
        raise ZeroDivisionError("planted")

    summary = fuzz(SEED, 5, 0, report=lambda text: None, evaluate=evaluate, most_failures=2)
    assert len(summary.failures) == 2 and summary.programs == 2
    assert all("ZeroDivisionError: planted" in failure.what for failure in summary.failures)


def test_shrinking_keeps_what_fails_and_drops_the_rest():
    case = next(c for c in (make(SEED, n) for n in range(100)) if any(x.op == "erf" for x in c.graph.nodes()))

    def fails(graph):
        return any(x.op == "erf" for x in graph.nodes())

    small = shrink(case.graph, fails)
    assert fails(small) and len(small.nodes()) <= 8 < len(case.graph.nodes())


def test_disagreement_takes_any_evaluation():
    case = make(SEED, 1)
    assert disagreement(case) <= TOLERANCE
    assert disagreement(case, lambda program, inputs: [2 * x for x in by_tiles(case)(program, inputs)]) > 0.1


def test_distance_sees_nan_infinity_and_shape():
    x = np.array([1.0, 2.0, np.nan, -np.inf])
    assert distance(x, x.copy()) == 0
    assert distance(x, np.array([1.0, 2.0, np.nan, np.inf])) == np.inf
    assert distance(x, np.array([1.0, 2.0, 0.0, -np.inf])) == np.inf
    assert distance(np.ones(3), np.ones((1, 3))) == np.inf
    assert distance(np.array([0.0, 100.0]), np.array([1e-9, 100.0])) == pytest.approx(1e-11)


@pytest.mark.parametrize(("length", "features"), [(1, 4), (5, 2), (8, 8), (7, 3)])
def test_one_hot_values_name_every_key_once(length, features):
    v = np.ones((2, 2, length, features), np.float32)
    probes = list(one_hot(v))
    assert all(p.shape == v.shape and p.dtype == v.dtype for p in probes)
    np.testing.assert_array_equal(sum(probes).sum(axis=3), np.ones((2, 2, length)))
    assert all((p.sum(axis=2) <= 1).all() for p in probes)  # an output feature is the weight of one key


def test_random_kernels_stay_within_the_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    summary = fuzz(SEED, 0, 4, report=lambda text: None)
    assert summary.ok and summary.kernels == 4, "\n".join(map(str, summary.failures))


def test_a_wrong_kernel_is_seen_by_a_one_hot_probe():
    """A kernel that swaps the weights of two keys, whose random values happen to be equal."""
    case = make(SEED, 0)
    v = np.ones_like(case.inputs.v)

    class Report:
        def __init__(self, ok):
            self.ok = ok

    class Variant:
        def verify(self, q, k, values, **operands):
            return Report(np.array_equal(values, v))

        def bisect(self, q, k, values, **operands):
            return "kernel"

    broken = replace(case, variant=Variant(), inputs=replace(case.inputs, v=v))
    complaint = check_kernel(broken)
    assert complaint.startswith("one-hot values 0") and complaint.endswith("kernel")


@pytest.mark.parametrize("names", ["ab", "abcd"])
def test_a_pairwise_cover_meets_every_pair(names):
    factors = {name: range(2 + n) for n, name in enumerate(names)}
    rows = pairwise(factors)
    for a, b in itertools.combinations(names, 2):
        assert {(row[a], row[b]) for row in rows} == set(itertools.product(factors[a], factors[b]))
    assert len(rows) < 30


def test_settings_of_a_check():
    pairs, everything = settings("pairs"), settings("all")
    assert len(everything) == np.prod([len(values) for values in EVERYTHING.values()]) == len(set(everything))
    assert all(s.Dv != s.D and s.lengths[0] != s.lengths[1] for s in everything) and len(pairs) < 200
    for key in ("D", "dtype", "lengths", "heads", "strided", "layout"):
        assert {getattr(s, key) for s in pairs} == set(FACTORS[key])
    for key in ("D", "dtype", "strided", "layout"):
        assert {getattr(s, key) for s in everything} == set(FACTORS[key])
    assert any(s.Dv != s.D for s in pairs) and any(s.lengths[0] != s.lengths[1] for s in pairs)


def test_strides_and_layout_change_no_value():
    plain = Setting(D=3, Dv=2, lengths=(4, 5), batch=2, heads=(4, 2))
    q, _, _ = arrays(plain, np.random.default_rng(0))
    for strided, layout in itertools.product((False, True), ("bhld", "blhd")):
        x = placed(q, Setting(D=3, Dv=2, lengths=(4, 5), batch=2, heads=(4, 2), strided=strided, layout=layout))
        np.testing.assert_array_equal(x if layout == "bhld" else x.transpose(0, 2, 1, 3), q)
        assert x.flags.c_contiguous != strided


def mixed(
    q, k, v, b, h, i, j, *, cap: float, n: int = 3, on: bool, w: at.Tensor["d", "r"], doc: at.Tensor["b", "j"],
    table: at.Tensor["h", "m"], pick: at.Tensor["i", int], bias: at.Tensor["g", "j"] = None, steps: at.Const[int],
):  # fmt: skip
    s = at.dot(q @ w, k @ w) / cap + table[h, doc[b, j] + pick[i]] * steps
    if bias is not None:
        s = s + bias[h // at.group, j]
    return at.softmax(s, where=on | (j <= i + n)) @ v


def test_operands_are_made_from_the_signature():
    variant = at.attention(mixed)
    seen = set()
    for seed in range(6):
        setting = Setting(D=5, Dv=3, lengths=(6, 9), heads=(4, 2), batch=2, dtype="float32")
        rng = np.random.default_rng(seed)
        given = operands(variant, setting, rng)
        q, k, v = arrays(setting, rng)
        assert np.isfinite(variant.reference(q, k, v, **given)).all()
        assert given["doc"].dtype.kind == "i" and given["w"].shape[0] == 5 and "n" not in given
        seen.add("bias" in given)
    assert seen == {True, False}


def test_a_constant_that_cannot_be_made_up_is_an_error():
    def named(q, k, v, *, how: at.Const[str]):
        return at.softmax(at.dot(q, k)) @ v

    with pytest.raises(OperandError, match="give how a default"):
        operands(at.attention(named), Setting(), np.random.default_rng(0))


def test_check_verifies_each_setting():
    source = "@at.attention\ndef tiny(q, k, v, i, j):\n    return at.softmax(at.dot(q, k), where=j <= i) @ v\n"
    variant = compiled("tiny", source)
    chosen = [
        Setting(D=8, Dv=8, lengths=(5, 7), strided=strided, layout=layout)
        for strided, layout in itertools.product((False, True), ("bhld", "blhd"))
    ]
    found = list(check(variant, chosen))
    assert [x.setting for x in found] == chosen and all(x.ok for x in found) and 0 < found[0].ratio < 1


def test_check_sees_a_kernel_that_is_wrong_when_strided():
    class Report:
        error, allowed = 1.0, 0.5

        def __init__(self, ok):
            self.ok = ok

    class Broken:
        __name__, function = "broken", mixed
        signature = at.attention(lambda q, k, v: at.softmax(at.dot(q, k)) @ v).signature

        def __call__(self, q, k, v, **kwargs):
            return q if q.flags.c_contiguous else q + 1

        def verify(self, q, k, v, **kwargs):
            return Report(q.flags.c_contiguous)

    import attnc.fuzz.check as module

    chosen = [Setting(lengths=(3, 3)), Setting(lengths=(3, 3), strided=True)]
    original, module.operands = module.operands, lambda *args: {}
    try:
        assert [x.ok for x in check(Broken(), chosen)] == [True, False]
    finally:
        module.operands = original
