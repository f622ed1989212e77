"""README.md and docs/*.md: their Python blocks run, what they print is what they show, and nothing public is left out."""

import contextlib
import io
import linecache
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import attnc as at
from attnc import errors
from attnc.viz.catalogue import catalogue, entry

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = "example.py"  # the name under which blocks appear in messages


@dataclass
class Block:
    info: list[str]
    body: str
    line: int


def blocks(text):
    """The fenced blocks of a page; ```python no-run is kept out."""
    found = [Block(m["info"].split(), m["body"], text[: m.start()].count("\n") + 1) for m in FENCE.finditer(text)]
    return [x for x in found if x.info[:1] in (["python"], ["text"]) and "no-run" not in x.info]


def run(block, namespace, page):
    """Run a block in `namespace`; returns what it printed. Its lines can be read by error messages."""
    linecache.cache[FILE] = (len(block.body), None, block.body.splitlines(keepends=True), FILE)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(block.body, FILE, "exec"), namespace)
    except Exception as error:
        raise AssertionError(f"{page.name}:{block.line}: the block raises {type(error).__name__}: {error}") from error
    finally:
        del linecache.cache[FILE]
    return printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_and_print_what_is_shown(page, update_golden):
    """The text block that comes next after a block that prints is its output; further ones are only to be read."""
    namespace = {"__name__": "example"}
    text, printed = page.read_text(encoding="utf-8"), ""
    for block in blocks(text):
        if block.info[0] == "python":
            printed = run(block, namespace, page).rstrip()
        elif printed:
            if update_golden:
                text = text.replace(f"```text\n{block.body}```", f"```text\n{printed}\n```", 1)
            else:
                assert printed == block.body.rstrip(), f"{page.name}:{block.line} shows another text than was printed"
            printed = ""
    if update_golden:
        page.write_text(text, encoding="utf-8")


def test_the_checks_of_this_file_see_a_wrong_page(tmp_path):
    page = tmp_path / "wrong.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match=r"wrong.md:5 shows another text"):
        test_blocks_run_and_print_what_is_shown(page, False)
    page.write_text("```python\nx = 1\n```\n\n```python\n\nx / 0\n```\n")
    with pytest.raises(AssertionError, match=r"wrong.md:5: the block raises ZeroDivisionError"):
        test_blocks_run_and_print_what_is_shown(page, False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", prose)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_the_page_of_the_library_is_made_of_its_files(update_golden):
    page = ROOT / "docs" / "variants.md"
    if update_golden:
        page.write_text(catalogue(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == catalogue()


def test_the_page_says_what_a_variant_costs():
    assert set(at.variants.__all__) <= set(re.findall(r"^## (\w+)$", catalogue(), re.MULTILINE))
    window, add, two = (entry(name) for name in ("sliding_window", "bahdanau", "differential"))
    assert (window.sweeps, window.work, window.keys) == (1, "D + Dv", "window")
    assert (add.work, add.keys) == ("R + Dv; D·R each query; D·R each key", "all")
    assert (two.sweeps, two.work, two.keys) == (1, "2·D + 2·Dv", "up to its own")
    assert "arXiv 2410.05258" in two.paper and "λ\\_h" in two.formula
    assert 'norm: at.Tensor["e"] | None = None' in two.operands and "`lam_init: float = 0.8`" in two.operands


def test_language_names_everything_that_a_formula_can_use():
    text = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    formula = (
        {name for name, home in at._HOME.items() if home.startswith("attnc.dsl")} | set(at._EXTENTS) | {"from_flex"}
    )
    assert len(formula) > 35
    missing = [name for name in sorted(formula) if f"at.{name}" not in text]
    assert not missing


def test_errors_names_every_class():
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    classes = [x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, errors.AttncError)]
    missing = [x.__name__ for x in classes if f"`{x.__name__}`" not in text]
    assert len(classes) > 12 and not missing
