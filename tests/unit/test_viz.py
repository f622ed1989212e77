"""Pictures: what they show, what they refuse, and the example whose alignment is learned from sentences."""

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from test_papers import FORMULAS

import attnc as at
from attnc import variants
from attnc.errors import AttncError, ShapeError
from attnc.viz.heatmap import MASKED_COLOUR, NAN_COLOUR, heatmap, mask_picture, variant_weights
from attnc.viz.text import text

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "alignment.py"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def alignment():
    spec = importlib.util.spec_from_file_location("alignment", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["alignment"] = module  # the variant's annotations are read through it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["alignment"]


def colours(image):
    """What is drawn for each weight, as red, green, blue."""
    return image.cmap(image.norm(image.get_array()))[..., :3]


def grey(image):
    return (colours(image) == to_rgb(MASKED_COLOUR)).all(-1)


def test_a_heatmap_shows_the_weights_and_the_tokens(tmp_path):
    w = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])
    figure = heatmap(
        w, rows=["le", "chat"], columns=["the", "black", "cat"], title="who sees whom", path=tmp_path / "w.png"
    )
    (axes,) = figure.axes
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), w)
    np.testing.assert_array_equal(grey(image), w == 0)
    assert image.get_clim()[1] == 0.75
    assert [x.get_text() for x in axes.get_yticklabels()] == ["le", "chat"]
    assert [x.get_text() for x in axes.get_xticklabels()] == ["the", "black", "cat"]
    assert figure.get_suptitle() == "who sees whom"
    assert (tmp_path / "w.png").read_bytes().startswith(PNG)
    assert len(np.unique(imread(tmp_path / "w.png")[..., :3].reshape(-1, 3), axis=0)) > 4


def test_heads_are_panels():
    w = np.random.default_rng(0).random((3, 4, 5))
    figure = heatmap(w, rows=list("abcd"))
    assert [axes.get_title() for axes in figure.axes] == ["head 0", "head 1", "head 2"]
    for axes, expected in zip(figure.axes, w, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), expected)
    assert [x.get_text() for x in figure.axes[0].get_yticklabels()] == list("abcd")


def test_nan_and_negative_weights_are_told_from_masked_ones():
    (image,) = heatmap([[0.5, np.nan, 0.0], [1e-30, 0.5, 0.0]]).axes[0].images
    np.testing.assert_array_equal((colours(image) == to_rgb(NAN_COLOUR)).all(-1), [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(grey(image), [[0, 0, 1], [0, 0, 1]])
    (image,) = heatmap([[-0.5, 0.25, 0.0]]).axes[0].images
    (red, _, blue), (red_above, _, blue_above), at_zero = colours(image)[0]
    assert blue > red and red_above > blue_above and (at_zero > 0.95).all()
    assert text([[0.5, np.nan, 0.0, -0.5]]) == "██??  ██"


@pytest.mark.parametrize(
    ("weights", "labels", "message"),
    [
        (np.ones((1, 2, 3, 4)), {}, r"shape is \(1, 2, 3, 4\)"),
        (np.ones((0, 3)), {}, "cannot be drawn"),
        (np.ones((2, 3)), {"rows": ["a"]}, "1 labels for 2 rows"),
        (np.ones((2, 3)), {"columns": list("abcd")}, "4 labels for 3 columns"),
    ],
)
def test_what_cannot_be_drawn_is_refused(weights, labels, message):
    with pytest.raises(ShapeError, match=message):
        heatmap(weights, **labels)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    q = np.zeros((4, 8), np.float32)
    for draw in (lambda: heatmap(np.ones((2, 2))), variants.causal.blocks(q, q).draw):
        with pytest.raises(AttncError, match=r"matplotlib is missing[\s\S]*pip install 'attnc\[viz\]'"):
            draw()


def test_matplotlib_is_imported_only_to_draw():
    probe = "import sys, attnc.viz.heatmap, attnc.viz.text, attnc.blocks; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_text_shades_each_row_by_its_largest_weight():
    w = [[0.8, 0.2, 0.0], [0.0, 0.0, 0.0], [0.001, 0.001, 0.0005]]
    assert text(w).splitlines() == ["██▒▒", "", "████▓▓"]
    lines = text(w, ["a", "bc", "d"], ["x", "yz", "w"]).splitlines()
    assert lines == ["     y", "   x z w", " a ██▒▒", "bc", " d ████▓▓"]
    with pytest.raises(ShapeError, match="no matrix"):
        text(np.ones((1, 2, 2)))
    with pytest.raises(ShapeError, match="2 labels for 3 columns"):
        text(w, None, ["x", "y"])


def test_weights_are_the_output_for_the_identity():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((2, 4, 5, 8)), rng.standard_normal((2, 2, 7, 8)), rng.standard_normal((2, 2, 7, 3))
    w = variants.sliding_window.weights(q, k, window=3)
    assert w.shape == (2, 4, 5, 7)
    out = variants.sliding_window.reference(q, k, v, window=3)
    np.testing.assert_allclose(w @ np.repeat(v, 2, axis=1), out, rtol=0, atol=1e-13)
    np.testing.assert_allclose(w.sum(-1), 1, rtol=1e-13)


def test_the_picture_of_a_variant(tmp_path):
    w = variant_weights(variants.document, {"doc": [[0, 0, 1, 1, -1]]}, q_len=5, kv_len=5, heads=2)
    expected = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(w > 0, np.broadcast_to(expected, (2, 5, 5)) > 0)
    assert (w.max(axis=-1) == [1, 1, 1, 1, 0]).all()

    @at.attention
    def mine(q, k, v, i, j, *, gap: int):
        return at.softmax(at.dot(q, k), where=(i - j) % gap == 0) @ v

    figure = mask_picture(mine, {"gap": 3}, q_len=6, kv_len=9, path=tmp_path / "mine.svg")
    shown = figure.axes[0].images[0]
    np.testing.assert_array_equal(~grey(shown), (np.arange(6)[:, None] - np.arange(9)) % 3 == 0)
    assert figure.get_suptitle() == "mine"
    assert "<svg" in (tmp_path / "mine.svg").read_text(encoding="utf-8")


def test_a_block_map_is_drawn_in_the_colours_of_its_classes(tmp_path):
    q = np.zeros((1, 2, 50, 8), np.float32)
    found = variants.causal.blocks(q, q, tile=(8, 16))
    figure = found.draw(tmp_path / "map.png", h=1)
    (axes,) = figure.axes
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), found.to_dense()[0, 1])
    assert image.get_extent() == [0, 64, 56, 0] and axes.get_xlim() == (0, 50) and axes.get_ylim() == (50, 0)
    shown = {
        int(code): tuple(colour)
        for code, colour in zip(image.get_array().ravel(), colours(image).reshape(-1, 3), strict=True)
    }
    (legend,) = figure.legends
    patches = {
        x.get_text(): patch.get_facecolor()[:3]
        for x, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    assert patches == {name: pytest.approx(shown[code]) for code, name in enumerate(["empty", "partial", "full"])}
    assert len(set(shown.values())) == 3 and axes.get_title() == found.headline
    assert (tmp_path / "map.png").read_bytes().startswith(PNG)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", variants.__all__)
def test_every_variant_draws_itself(name, tmp_path, monkeypatch, capsys):
    path = tmp_path / "picture.png"
    monkeypatch.setattr(sys, "argv", [name, str(path)])
    if name in FORMULAS:  # a kernel each is too dear: the same weights by the definition

        def weights(self, q, k, **operands):
            return self.reference(q, k, np.broadcast_to(np.eye(k.shape[2]), (*k.shape[:3], k.shape[2])), **operands)

        monkeypatch.setattr(at.Attention, "weights", weights)
    runpy.run_module(f"attnc.variants.{name}", run_name="__main__")
    assert path.read_bytes().startswith(PNG)
    printed = capsys.readouterr().out
    formula = getattr(variants, name).__doc__.strip().splitlines()[0]
    assert "█" in printed and f"{name}: {formula}" in printed and printed.endswith(f"{path}\n")
    assert "softmax_j(" in formula or "Σ_j" in formula


def test_the_learned_alignment_is_the_translation(alignment):
    model = alignment.Model.learn(alignment.CORPUS)
    english, french = alignment.words(alignment.ENGLISH), alignment.words(alignment.FRENCH)
    weights = model.align(alignment.ENGLISH, alignment.FRENCH)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    found = [(word, english[row.argmax()]) for word, row in zip(french, weights, strict=True)]
    assert found == [
        ("l'", "the"), ("accord", "agreement"), ("sur", "on"), ("la", "the"), ("zone", "area"),
        ("économique", "economic"), ("européenne", "european"), ("a", "was"), ("été", "was"), ("signé", "signed"),
        ("en", "in"), ("août", "august"), ("1992", "1992"), (".", "."),
    ]  # fmt: skip
    assert weights[0].argmax() == 0 and weights[3].argmax() == 3  # each article its own
    assert f"{alignment.ENGLISH}" not in alignment.CORPUS and alignment.FRENCH not in alignment.CORPUS


def test_the_alignment_comes_out_of_the_sentences(alignment):
    """Where every English sentence stands beside the next one's translation, the same learning aligns little."""
    model = alignment.Model.learn(alignment.CORPUS)
    weights = model.align(alignment.ENGLISH, alignment.FRENCH)
    pairs = [line.split("|") for line in alignment.CORPUS.strip().splitlines()]
    shifted = "\n".join(f"{e}|{f}" for (e, _), (_, f) in zip(pairs, pairs[7:] + pairs[:7], strict=True))
    other = alignment.Model.learn(shifted).align(alignment.ENGLISH, alignment.FRENCH)
    assert (other.argmax(axis=1) == weights.argmax(axis=1)).sum() <= 7


def test_luong_is_its_formula(alignment):
    rng = np.random.default_rng(0)
    q, k, v, w = (rng.standard_normal(s) for s in ((5, 3), (7, 3), (7, 2), (3, 3)))
    i, j = np.arange(5)[:, None], np.arange(7)
    s = 2 * (q @ w @ k.T) - (j - i * 7 / 5) ** 2 / (2 * 1.5**2)
    e = np.exp(s)
    out = alignment.luong.reference(q, k, v, W=w, sharpness=2.0, reach=1.5)
    np.testing.assert_allclose(out, e @ v / e.sum(-1, keepdims=True), rtol=0, atol=1e-13)


def test_the_example_prints_and_draws(alignment, tmp_path, capsys):
    alignment.main(tmp_path / "a.png")
    printed = capsys.readouterr().out
    assert "zone -> area" in printed and "européenne ░" in printed
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
