"""The frame of the benchmarks on fake calls: turns, quartiles, aims, JSON, comparison, tables."""

import json
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc.bench import report, timing
from attnc.bench.peers import PEERS
from attnc.bench.row import Figure, Row, Times, constant, geometric_mean, quartiles
from attnc.bench.suite import Mean, known_peers, run, select
from attnc.bench.timing import Settings, alternate, timed
from attnc.errors import AttncError

ONE = Settings(threads=1, rounds=1, peers=tuple(PEERS))


def test_calls_take_turns():
    seen = []

    def measure(name):
        return lambda: seen.append(name) or float(len(seen))

    times = alternate({"a": measure("a"), "b": measure("b")}, replace(ONE, rounds=3), {"c": "gone"}, warm_ups=2)
    assert seen == ["a", "b"] * 5 and times.missing == {"c": "gone"}
    assert times.seconds == {"a": [5.0, 7.0, 9.0], "b": [6.0, 8.0, 10.0]}


@pytest.mark.parametrize(
    ("settings", "seconds", "expected"),
    [(Settings(1), 1.0, 15), (Settings(1), 3.0, 6), (Settings(1), 60.0, 5), (Settings(1, 40), 9.0, 40), (Settings(1, quick=True), 9.0, 2)],
)  # fmt: skip
def test_rounds_end_with_their_number_or_their_time(monkeypatch, settings, seconds, expected):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now, sleep=lambda seconds: None))

    def measure():
        clock.now += seconds
        return seconds

    assert len(alternate({"a": measure}, settings).seconds["a"]) == expected


def test_a_pause_comes_before_each_timed_call(monkeypatch):
    seen = []
    pretended = SimpleNamespace(perf_counter=time.perf_counter, sleep=lambda seconds: seen.append(seconds))
    monkeypatch.setattr(timing, "time", pretended)
    measure = timed(lambda: seen.append("call"), before=lambda: seen.append("before"), in_a_row=3)
    assert alternate({"a": measure}, ONE, warm_ups=0).seconds["a"][0] < 1.0
    assert seen == [timing.PAUSE, "before", "call", "call", "call"]


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30))
def test_quartiles_are_numpys(values):
    np.testing.assert_allclose(quartiles(values), np.quantile(values, [0.25, 0.5, 0.75]), rtol=1e-9)


def test_ratios_are_taken_round_by_round():
    times = Times({"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 6.0, 4.0]}, {"gone": "not installed: gone"})
    ratio = times.figure("ratio", "theirs", "ours", aim=2.0)
    assert ratio.spread == (1.5, 2.0, 2.5) and ratio.met is True and not ratio.less_is_better
    assert times.figure("time", "ours", unit="s", aim=1.9, at_most=True).met is False
    assert times.figure("rate", "", "ours", factor=8.0).spread == (3.0, 4.0, 6.0)
    lost = times.figure("lost", "gone", "ours", aim=1.0)
    assert lost.spread is None and lost.met is None and lost.missing == "not installed: gone"
    assert constant("n", 3.0).met is None


def test_means_are_geometric_and_need_all_rows():
    rows = [Row(f"x {n}", "", (Figure("r", (n / 2, float(n), 2.0 * n)),)) for n in (1, 2, 4)]
    (mean,) = geometric_mean("mean", rows, "r", 2.0).figures
    np.testing.assert_allclose(mean.spread, (1.0, 2.0, 4.0))
    assert mean.aim == 2.0
    (none,) = geometric_mean("mean", [*rows, Row("x 3", "", (Figure("r", None, missing="gone"),))], "r", 2.0).figures
    assert none.spread is None and none.missing == "not in all rows"


@dataclass
class Fake:
    """A row with one ratio."""

    name: str
    ratio: float

    def measure(self, settings):
        times = Times({"a": [1.0, 1.0], "b": [self.ratio, self.ratio * 1.1]}, {"c": "not installed: c"})
        figures = (
            times.figure("b / a", "b", "a", aim=2.0),
            times.figure("c / a", "c", "a", aim=2.0),
            constant("B", 2.0**20, "B"),
        )
        return Row(self.name, "8x8", figures, times.seconds)


SPECS = [Fake("x 1", 2.0), Fake("x 2", 8.0), Mean("mean", "x ", "b / a", 1.2), Fake("y", 1.0)]


def test_rows_run_in_order_and_the_mean_knows_those_before_it():
    rows = list(run(SPECS, ONE))
    assert [x.name for x in rows] == ["x 1", "x 2", "mean", "y"]
    assert rows[2].figure("b / a").spread[1] == pytest.approx(4.2) and rows[2].figure("b / a").met
    assert [x.name for x in select(SPECS, ["x*"])] == ["x 1", "x 2"] and select(SPECS, []) == SPECS
    assert [x.name for x in run(select(SPECS, ["mean"]), ONE)] == []
    with pytest.raises(AttncError, match="x 1, x 2, mean, y"):
        select(SPECS, ["y", "z*"])
    quick = list(run(SPECS, replace(ONE, quick=True)))
    assert all(x.aim is None for row in quick for x in row.figures)  # small sizes have none


def test_peers_by_name():
    assert known_peers(None, False) == tuple(PEERS) and "flex" not in known_peers(None, True)
    assert known_peers("SDPA, jax", False) == ("SDPA", "jax")
    with pytest.raises(AttncError, match="some of SDPA, flex"):
        known_peers("sdpa", False)


def test_a_report_survives_its_file(tmp_path):
    found = report.report("cpu", run(SPECS, ONE), ONE)
    found.save(tmp_path / "a.json")
    again = report.Report.load(tmp_path / "a.json")
    assert again.rows == found.rows and again.machine == found.machine and again.date == found.date
    assert again.settings["pauses"] == [timing.PAUSE, timing.BLAS_PAUSE] and again.versions["numpy"] == np.__version__
    assert "instructions" in again.machine and again.rows[0].seconds["b"] == [2.0, 2.2]
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["format"] == report.FORMAT
    for text in ("{}", "[]", "no", json.dumps({**data, "format": 99}), json.dumps({**data, "rows": [{}]})):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(AttncError, match="no result of a benchmark"):
            report.Report.load(tmp_path / "b.json")
    with pytest.raises(AttncError, match="--json"):
        found.save(tmp_path / "absent" / "c.json")


def test_tables_name_a_row_once_and_say_what_is_missing():
    found = report.report("cpu", run(SPECS, ONE), ONE)
    lines = report.table(found.rows)
    assert lines[0] == ["x 1: 8x8", "b / a", "2.1", "2.05 to 2.15", "≥ 2", "yes"]
    assert lines[1] == ["", "c / a", "not installed: c", "", "≥ 2", ""]
    assert lines[2] == ["", "B", "1 MiB", "", "", ""]
    assert all(len(x) == len(report.COLUMNS) for x in lines)
    text = report.markdown([found, found])
    assert text.count("cpu: 2") == 1 and text.count("| x 1: 8x8 | b / a |") == 2
    assert "| B |" in text and "| B |" not in report.markdown([found], aims=True)
    assert text.startswith("- cpu: 2") and "1 threads" in text and "medians of 2 rounds" in text
    assert "| x 1: 8x8 | b / a | 2.1 | 2.05 to 2.15 | ≥ 2 | yes |" in text


def test_a_comparison_names_what_changed_beyond_the_spread():
    old = report.report("cpu", run(SPECS, ONE), ONE)
    new = report.report("cpu", run([Fake("x 1", 3.0), Fake("x 2", 8.1), Fake("new", 1.0), Fake("y", 0.5)], ONE), ONE)
    lines = {(x[0], x[1]): x for x in report.compare(old, new)}
    assert lines["x 1: 8x8", "b / a"][2:] == ["2.1", "3.15", "better, x 1.50"]
    assert lines["x 2: 8x8", "b / a"][4] == "" and lines["y: 8x8", "b / a"][4] == "worse, x 0.50"
    assert not any(x.startswith("new") for x, _ in lines) and ("", "c / a") not in lines
    slower = Figure("t", (2.0, 2.0, 2.0), "s")
    assert report.changed(Figure("t", (1.0, 1.0, 1.0), "s"), slower) == "worse, x 2.00"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0021, "s", "2.1 ms"), (3e-9, "s", "3 ns"), (12e-6, "s", "12 µs"), (1.0, "s", "1 s"), (2**21, "B", "2 MiB"), (1234.0, "", "1234"), (1.236, "", "1.24"), (9.5, "GB/s", "9.5 GB/s")],
)  # fmt: skip
def test_numbers_have_their_unit(value, unit, text):
    assert report.show(value, unit) == text
