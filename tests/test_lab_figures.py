"""The lab's pictures: two files each, the same bytes for the same numbers, nothing left behind."""

from __future__ import annotations

import html
import math
import struct
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

import llmzip.lab.figures as of_all
from llmzip.errors import InputError
from llmzip.inspect.style import PNG_DPI, WIDTH, figure_text, label, new_figure
from llmzip.lab.figures import save
from llmzip.lab.figures_bars import (
    GreedyPoint,
    Utilisation,
    draw_capacity,
    draw_greedy,
    draw_lengths,
    draw_utilisation,
    greedy_points,
)
from llmzip.lab.figures_curves import (
    Curve,
    SolutionPath,
    draw_entropy,
    draw_geometry,
    draw_rate,
    draw_scaling,
)
from llmzip.lab.measures import CapacityFigures, Spread, fit_threshold
from llmzip.lab.published import (
    published_brittleness,
    published_capacities,
    published_for,
    published_scaling,
)
from llmzip.lab.rate import RateFigures

MODEL = "HuggingFaceTB/SmolLM2-135M"
HOSTILE = "$\\frac{ --><b>&\x1b[31m\u202e"


def spread(mean, std=1.0, count=3):
    return Spread(mean=mean, std=std, count=count)


NOTHING = Spread.of([])


def figures(num_mem=1, tokens=61.2, source="natural", model=MODEL, at_99=48):
    return CapacityFigures(
        model=model, source=source, num_mem=num_mem, mem_dim=576,
        exact_tokens=spread(tokens, 12.1) if tokens else NOTHING,
        exact_bits=spread(331, 40) if tokens else NOTHING,
        num_cut_off=0, capacity_tokens_at_99=at_99, is_at_99_cut_off=False,
        token_gain_above=NOTHING, info_gain_bits_above=spread(430) if at_99 else NOTHING,
    )  # fmt: skip


def capacity(folder):
    return draw_capacity(folder, [figures(), figures(source="random")], published_for(MODEL))


def scaling(folder):
    return draw_scaling(folder, [figures(k, 60 * k**0.9) for k in (1, 2, 4)], published_scaling())


def lengths(folder):
    return draw_lengths(folder, [figures(), figures(source="x")], published_capacities())


def utilisation(folder):
    bars = [
        Utilisation(model=MODEL, source="natural", bound_tokens=590, gain_tokens=59),
        Utilisation(model="a", source="PG19", bound_tokens=9, gain_tokens=1, is_published=True),
    ]
    return draw_utilisation(folder, bars)


def entropy(folder):
    held = [(100.0 * i, 0.0) for i in range(1, 4)]
    beyond = [(100.0 * i, 95.0 * i - 316) for i in range(4, 16)]
    points = {"natural": held, "random": beyond}
    return draw_entropy(folder, points, fit_threshold(held + beyond))


def rate(folder):
    one = [rate_figures(16, 60.0), rate_figures(2, 18.0), rate_figures(4, 41.0)]
    return draw_rate(folder, [*one, rate_figures(2, 35.0, num_mem=2)])


def rate_figures(bits, tokens, num_mem=1):
    return RateFigures(
        num_mem=num_mem, bits=bits, texts=3, coded_bits_a_dimension=bits,
        exact_bits_a_dimension=1.0, stored_bits=10.0 * bits * num_mem,
        tokens=spread(tokens), exact_bits=spread(5 * tokens) if tokens else NOTHING,
        stored_bits_an_information_bit=bits * 10 / tokens if tokens else None,
    )  # fmt: skip


def greedy(folder):
    points = [GreedyPoint(rule="margin 1", teacher_forced=spread(1, 0), greedy=spread(0.93, 0.1))]
    return draw_greedy(folder, points, published_brittleness())


def geometry(folder):
    path = SolutionPath(seed=7, steps=[0, 5, 10], points=[(0, 0), (1, 2), (3, 3)])
    curves = [Curve(title=f"pair {i}", points=[(0, 1), (0.5, 0.1), (1, 1)]) for i in range(2)]
    return draw_geometry(folder, [path], curves, curves[:1], (0.41, 0.2))


ALL = [capacity, scaling, lengths, utilisation, entropy, rate, greedy, geometry]


def words(svg: Path) -> list[str]:
    """The words of a picture; they are drawn as outlines, each with a comment that says it."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    tree = ElementTree.parse(svg, parser)
    return [html.unescape(str(e.text).strip()) for e in tree.iter() if e.tag is ElementTree.Comment]


def caught(monkeypatch):
    """The figures that would be saved."""
    found = []
    monkeypatch.setattr(of_all, "save", lambda figure, folder, name: found.append(figure))
    return found


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_two_files_that_depend_on_the_numbers_alone(draw, tmp_path):
    before = dict(matplotlib.rcParams)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    png, svg = draw(first)
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30.0, "axes.grid": False, "svg.hashsalt": "other"}):
        again = draw(second)
    assert [file.name for file in again] == [f"{draw.__name__}.png", f"{draw.__name__}.svg"]
    assert [file.read_bytes() for file in again] == [png.read_bytes(), svg.read_bytes()]
    assert {file.name for file in first.iterdir()} == {png.name, svg.name}
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", png.read_bytes()[16:20]) == (WIDTH * PNG_DPI,)
    for element in ElementTree.parse(svg).iter():
        for name, value in element.attrib.items():
            assert not name.endswith("href") or value.startswith(("#", "data:image/png"))


def test_capacity_says_figures_and_what_is_published(tmp_path):
    _, svg = capacity(tmp_path)
    said = words(svg)
    assert "61.2 ± 12.1" in said and "331 ± 40" in said
    assert "SmolLM2-135M, natural" in said and "SmolLM2-135M, PG19, exact" in said
    assert "38.5 ± 14.1" in said and "168 ± 66" in said and "not published" in said
    assert "published" in said and "<pattern" in svg.read_text("utf-8")
    _, svg = draw_capacity(tmp_path, [figures(at_99=None)])
    assert "<pattern" not in svg.read_text("utf-8")
    assert not {"published", "ours, the paper's way (99 %)"} & set(words(svg))


def test_scaling_has_the_ideal_line(tmp_path, monkeypatch):
    found = caught(monkeypatch)
    scaling(tmp_path)
    tokens, density = found[0].axes
    (ideal,) = (line for line in tokens.get_lines() if line.get_linestyle() == "--")
    assert list(ideal.get_xdata()) == [1, 2, 4]
    assert list(ideal.get_ydata()) == pytest.approx([60, 120, 240])
    own = density.get_lines()[0]
    assert list(own.get_ydata()) == pytest.approx([331 / (576 * k) for k in (1, 2, 4)])


def test_ours_is_full_and_published_is_hollow(tmp_path, monkeypatch):
    found = caught(monkeypatch)
    lengths(tmp_path)
    (axes,) = found[0].axes
    lines = [line for line in axes.get_lines() if line.get_marker() in ("o", "D", "^")]
    hollow = [line for line in lines if line.get_markerfacecolor() == "white"]
    num_published = sum(each.tokens is not None for each in published_capacities())
    assert len(hollow) == num_published
    assert len(lines) - len(hollow) == 4  # two sources, exact and at 99 %
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names[0] == "Llama-3.1-8B"
    assert names[-2:] == ["SmolLM2-135M", "SmolLM2-360M"]  # 61.2 and, published, 61


def test_utilisation_says_the_share(tmp_path):
    _, svg = utilisation(tmp_path)
    assert {"10.0 %", "11.1 %", "bound"} <= set(words(svg))


def test_entropy_says_threshold_and_line(tmp_path, monkeypatch):
    found = caught(monkeypatch)
    entropy(tmp_path)
    said = [text.get_text() for text in found[0].axes[0].texts]
    assert "threshold 300 bits" in said
    assert "beyond it, left = 0.95 × before − 316" in said
    (line,) = (each for each in found[0].axes[0].get_lines() if each.get_linestyle() == "--")
    assert list(line.get_xdata()) == [300, 300]
    draw_entropy(tmp_path, {"natural": [(10.0, 0.0)]}, None)
    said = [text.get_text() for text in found[1].axes[0].texts]
    assert said == ["no gain: after = before"]


def test_rate_is_sorted_and_greedy_is_not_rounded_up(tmp_path):
    said = words(rate(tmp_path)[1])
    assert {"2-bit", "4-bit", "16-bit", "2 x 2-bit"} <= set(said)
    costs = [float(word) for word in said if word in ("1.11", "0.98", "2.67")]
    assert costs == [1.11, 0.98, 2.67]  # sorted by bits
    said = words(greedy(tmp_path)[1])
    assert "99.96 %" in said and "0.4 %" in said and "93 %" in said


def test_greedy_points_are_means_by_rule():
    def row(rule, right, tokens=10, accuracy=1.0):
        return {
            "setting": rule, "greedy_right": right, "num_tokens": tokens, "accuracy": accuracy,
        }  # fmt: skip

    rows = [row("b", 5), row("a", 10), row("b", 10, accuracy=0.9), row("a", None), row("c", None)]
    second, first = greedy_points(rows)
    assert (second.rule, first.rule) == ("b", "a")
    assert second.greedy.mean == 0.75 and second.teacher_forced.mean == pytest.approx(0.95)
    assert first.greedy.mean == 1 and first.greedy.count == 1


def test_nothing_held_is_no_error(tmp_path):
    none = [figures(tokens=0, at_99=None)]
    draw_capacity(tmp_path, none)
    draw_scaling(tmp_path, none)
    draw_lengths(tmp_path, none)
    draw_rate(tmp_path, [rate_figures(2, 0)])
    draw_greedy(tmp_path, [GreedyPoint(rule="", teacher_forced=NOTHING, greedy=NOTHING)])
    draw_geometry(tmp_path, [SolutionPath(seed=0, steps=[0], points=[(0, 0)])])
    assert len(list(tmp_path.glob("*.svg"))) == 6


def test_names_of_files_are_no_formulas(tmp_path):
    _, svg = draw_capacity(tmp_path, [figures(source=HOSTILE, model=f"a/{HOSTILE}")])
    assert "$\\frac{ --><b>&\\x1b[31m\\u202e" in "".join(words(svg)).replace("- ->", "-->")
    draw_entropy(tmp_path, {HOSTILE: [(1.0, 1.0)], "図書館": [(2.0, 2.0)]})
    assert len(label("x" * 1000)) < 40


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        save(new_figure(1), tmp_path / "none", "a")


@pytest.mark.parametrize(
    ("value", "std", "text"),
    [
        (0.837, None, "0.84"), (38.5, 14.1, "38.5 ± 14.1"), (80, None, "80"), (1568, 0, "1,568"),
        (0, None, "0"), (12, 3.25, "12.0 ± 3.2"), (7020.2, 789.1, "7,020 ± 789"),
    ],
)  # fmt: skip
def test_figures_in_words(value, std, text):
    assert figure_text(value, std) == text


def test_no_picture_needs_global_state():
    package = Path(of_all.__file__).parent
    files = sorted(package.glob("figures*.py"))
    assert len(files) == 3
    assert not [file.name for file in files if "pyplot" in file.read_text("utf-8")]


def test_a_share_is_of_the_bound():
    bar = Utilisation(model="", source="", bound_tokens=8, gain_tokens=2)
    assert math.isclose(bar.share, 0.25)
