"""Pictures and charts of a file: what they are made of, and which files they may become."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import llmzip
from llmzip.cli import pictures
from llmzip.cli.main import main
from llmzip.inspect.pieces import Piece, PieceKind, read_pieces
from llmzip.inspect.plots import draw_file
from llmzip.inspect.report import Report, read_report
from llmzip.inspect.style import PNG_DPI, WIDTH, png_bytes, svg_text
from llmzip.inspect.terminal_chart import (
    chart_text,
    kinds_along,
    laid_out,
    lowest,
    profile,
    stored_rate,
    text_end,
    tracks_of,
)
from tests.tiny_models import SHORT_TEXT

DATA = Path(__file__).resolve().parent / "data"
NAMES = sorted(path.name for path in DATA.glob("*.crm"))
CRAM = {"budget_bits": 60.0, "max_steps": 30, "context_tokens": 16}


def of_file(name: str) -> tuple[Report, list[Piece]]:
    data = (DATA / name).read_bytes()
    return read_report(data), read_pieces(data)


def piece(
    kind: PieceKind, first: int, size: int, *, bits: float, margin: float | None = None
) -> Piece:
    return Piece(
        kind=kind, first_byte=first, num_bytes=size, num_tokens=size // 4, number=first + 1,
        vector_bits=bits if kind in ("crammed", "patched") else 0.0,
        stored_bits=bits if kind == "stored" else 0.0,
        surprisal_bits=None if kind == "stored" else 2.0 * size, min_margin=margin,
    )  # fmt: skip


ROW = [
    piece("crammed", 0, 40, bits=160, margin=0.5),
    piece("stored", 40, 20, bits=160),
    piece("patched", 60, 40, bits=40, margin=0.002),
]


def many(count: int) -> list[Piece]:
    """More than have steps of their own."""
    kinds: list[PieceKind] = ["crammed", "patched", "stored"]
    return [
        piece(kinds[n % 3], 40 * n, 40, bits=100 + n % 7, margin=0.1 + n % 5 if n % 3 < 2 else None)
        for n in range(count)
    ]


# Figures along the text


def test_a_profile_is_a_mean_by_bytes() -> None:
    assert text_end(ROW) == 100
    assert profile(ROW, stored_rate, 5) == pytest.approx([4, 4, 8, 1, 1])
    assert profile(ROW, stored_rate, 1) == pytest.approx([(160 + 160 + 40) / 100])
    assert profile(ROW, lambda p: p.min_margin, 5) == pytest.approx([0.5, 0.5, None, 0.002, 0.002])
    assert lowest(ROW, lambda p: p.min_margin, 1) == [0.002]
    assert kinds_along(ROW, 5) == ["crammed", "crammed", "stored", "patched", "patched"]
    assert kinds_along([], 3) == [None] * 3 and profile([], stored_rate, 2) == [None, None]


def test_profiles_keep_the_sum_whatever_their_columns() -> None:
    pieces = many(700)
    for columns in (1, 7, 300, 2000):
        values = profile(pieces, stored_rate, columns)
        total = sum(value or 0.0 for value in values) * text_end(pieces) / columns
        assert total == pytest.approx(sum(each.bits for each in pieces))


@pytest.mark.parametrize("name", NAMES)
def test_laid_out_pieces_have_no_gaps(name: str) -> None:
    report, pieces = of_file(name)
    laid = laid_out(pieces)
    assert [each.first_byte for each in laid[1:]] == [each.end_byte for each in laid[:-1]]
    assert sum(each.num_bytes for each in laid) == text_end(laid) == report.original_bytes


def test_a_segment_around_stored_bytes_is_laid_out_in_parts() -> None:
    _, pieces = of_file("v1_arith.crm")
    (cut,) = [each for each in pieces if each.extents]
    parts = [each for each in laid_out(pieces) if each.number == cut.number]
    assert len(parts) == len(cut.extents) == 2
    assert sum(each.num_bytes for each in parts) == cut.num_bytes < cut.end_byte - cut.first_byte
    assert sum(each.stream_bits for each in parts) == cut.stream_bits


def test_what_is_shown_depends_on_what_is_known() -> None:
    def keys(name: str, pieces: list[Piece] | None = None) -> list[str]:
        report, own = of_file(name)
        return [track.key for track in tracks_of(report, own if pieces is None else pieces)]

    assert keys("v1_tiny.crm") == ["tokens", "bits"]
    assert keys("v1_tiny.crm", ROW) == ["tokens", "bits", "surprisal", "margin"]
    assert keys("v1_arith.crm") == ["bits"]
    assert keys("v1_stored.crm") == keys("v1_tiny.crm", []) == keys("v1_tiny.crm", ROW[:1]) == []


# Charts


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [1, 40, 77, 120])
def test_charts_fit(name: str, columns: int) -> None:
    report, pieces = of_file(name)
    for is_ascii in (False, True):
        text = chart_text(report, pieces, num_columns=columns, is_ascii=is_ascii)
        assert max(map(len, text.splitlines())) <= max(40, columns)
        assert text.endswith("\n") and text.isascii() == is_ascii
        bar = text.splitlines()[1]
        assert len(bar) == max(40, columns)


def test_a_chart_shows_the_figures() -> None:
    report, _ = of_file("v1_tiny.crm")
    lines = chart_text(report, ROW, num_columns=60).splitlines()
    place = lines.index("bits for each byte of the text")
    graph = lines[place + 1 : place + 6]
    assert graph[0].startswith("        8|") and graph[-1].startswith("        0|")
    # 50 columns: 20 of half the height, 10 full, 20 of an eighth.
    assert graph[0] == "        8|" + " " * 20 + "█" * 10
    assert graph[-1] == "        0|" + "█" * 30 + "▅" * 20
    assert graph[2] == " " * 9 + "|" + "▄" * 20 + "█" * 10
    (kinds,) = [line for line in lines if line.startswith("     kind|")]
    assert kinds == "     kind|" + "c" * 20 + "S" * 10 + "p" * 20
    assert lines[-1] == "c crammed 1   S stored 1   p patched 1"
    margins = lines[lines.index("weakest margins, in logits, on a logarithmic scale") + 1 :][:5]
    assert margins[0] == "      0.5|" + "█" * 20 and margins[-1].startswith("    0.001|")


# Pictures


def png_size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_whole_and_the_same_again(name: str) -> None:
    report, pieces = of_file(name)
    svgs = [svg_text(draw_file(report, pieces, name=name)) for _ in range(2)]
    assert svgs[0] == svgs[1]
    assert ElementTree.fromstring(svgs[0]).tag.endswith("svg")
    pngs = [png_bytes(draw_file(report, pieces, name=name)) for _ in range(2)]
    assert pngs[0] == pngs[1]
    assert png_size(pngs[0])[0] == WIDTH * PNG_DPI


def words(report: Report, pieces: list[Piece], name: str = "x.crm") -> tuple[list[str], int]:
    """All that is written in a picture, and the number of its panels."""
    figure = draw_file(report, pieces, name=name)
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), *(text.get_text() for text in axes.texts)]
        legend = axes.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    return found, len(figure.axes)


def test_what_a_picture_says() -> None:
    report, _ = of_file("v1_tiny.crm")
    found, count = words(report, ROW, name="$a_{b}$\x1b[31m.crm")
    assert count == 4
    assert found[0] == "$a_{b}$\\x1b[31m.crm: 30 → 177 bytes, 47.20 bits per byte"
    for expected in (
        "177  (47.20 bits per byte)", "88  (23.47 bits per byte)", "38  (10.13 bits per byte)",
        "vectors 13.6 %", "metadata 76.8 %", "Tokens that a vector holds (pale: none)",
        "crammed", "patched", "stored", "Bits for each byte of the text", "surprisal",
        "Weakest margins, in logits", "noise of fp32 decoding",
    ):  # fmt: skip
        assert expected in found
    assert "streams" not in found and "literal" not in found
    unknown = [replace(each, surprisal_bits=None, min_margin=None) for each in ROW]
    found, count = words(report, unknown)
    assert count == 3 and "surprisal" not in found
    assert words(*of_file("v1_stored.crm"))[1] == 1


def overlaps(report: Report, pieces: list[Piece]) -> list[str]:
    """Titles and legends that lie on one another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = draw_file(report, pieces, name="x" * 80)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = []
    boxes = []
    for axes in figure.axes:
        boxes.append((axes.get_title(loc="left"), axes._left_title.get_window_extent()))
        legend = axes.get_legend()
        if legend is not None:
            boxes.append((f"legend of {axes.get_title(loc='left')}", legend.get_window_extent()))
    for number, (name, box) in enumerate(boxes):
        found += [f"{name} / {other}" for other, its in boxes[number + 1 :] if box.overlaps(its)]
        if box.x0 < 0 or box.x1 > figure.bbox.width:
            found.append(f"{name} is cut off")
    return found


@pytest.mark.parametrize("count", [3, 700])
def test_no_words_lie_on_others(count: int) -> None:
    report, _ = of_file("v1_tiny.crm")
    literal = replace(piece("literal", 40 * count, 4, bits=0), patch_bits=60.0, min_margin=None)
    assert overlaps(report, [*many(count), literal]) == []


# The commands


def test_info_draws(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, picture = str(DATA / "v1_tiny.crm"), tmp_path / "x.png"
    assert main(["info", source, "--plot", str(picture)]) == 0
    told = capfd.readouterr()
    assert told.out == read_report(Path(source).read_bytes()).to_text(name=source)
    assert told.err == f"{source} → {picture}\n"
    first = picture.read_bytes()
    assert png_size(first)[0] == WIDTH * PNG_DPI
    assert main(["info", source, "--plot", str(picture)]) == 1  # it is there
    assert "exists" in capfd.readouterr().err and picture.read_bytes() == first
    picture.write_bytes(b"old")
    assert main(["info", source, "--plot", str(picture), "-f"]) == 0
    assert picture.read_bytes() == first
    capfd.readouterr()
    assert main(["info", source, "--json", "--plot", str(tmp_path / "x.SVG")]) == 0
    assert json.loads(capfd.readouterr().out)["schema"] == 1
    ElementTree.parse(tmp_path / "x.SVG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.SVG", "x.png"]


def test_pictures_that_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = str(DATA / "v1_tiny.crm")
    for arguments, code, message in (
        (["info", source, "--plot", str(tmp_path / "x.jpg")], 2, ".png or .svg"),
        (["info", source, "--plot", "-"], 2, "--chart draws in the terminal"),
        (["info", source, source, "--plot", str(tmp_path / "x.png")], 2, "one file"),
        (["info", source, "--chart", "--json"], 2, "do not go together"),
        (["explain", source, "--chart", "--json"], 2, "do not go together"),
        (["info", source, "--plot", str(tmp_path / "no" / "x.png")], 1, "cannot write"),
        (["info", str(tmp_path / "no.crm"), "--plot", str(tmp_path / "x.png")], 1, "cannot read"),
    ):
        assert main(arguments) == code
        assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_input_is_never_replaced(tmp_path: Path) -> None:
    source = tmp_path / "x.svg"
    data = (DATA / "v1_tiny.crm").read_bytes()
    source.write_bytes(data)
    assert main(["info", str(source), "--plot", str(source), "-f"]) == 1
    assert source.read_bytes() == data


def test_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    source = str(DATA / "v1_tiny.crm")
    for command in ("info", "explain"):
        assert main([command, source, "--plot", str(tmp_path / "x.png")]) == 1
        told = capfd.readouterr()
        assert "matplotlib" in told.err and "pip install matplotlib" in told.err
        assert told.out == ""  # before any work
    assert main(["info", source, "--chart"]) == 0


@pytest.mark.parametrize(
    ("encoding", "is_ascii"), [("utf-8", False), ("ascii", True), ("cp437", True)]
)
def test_charts_in_what_the_terminal_can_show(
    encoding: str, is_ascii: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "64")
    assert main(["info", str(DATA / "v1_tiny.crm"), "--chart"]) == 0
    text = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    report, pieces = of_file("v1_tiny.crm")
    assert text.endswith("\n\n" + chart_text(report, pieces, num_columns=64, is_ascii=is_ascii))


def test_explain_adds_what_the_model_says(
    tiny_model: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, path, picture = str(tiny_model("llama")), tmp_path / "x.crm", tmp_path / "x.svg"
    path.write_bytes(llmzip.compress(SHORT_TEXT, model=model, preset="fast", **CRAM))  # type: ignore[arg-type]
    arguments = ["explain", str(path), "--model", model, "-q", "--chart", "--plot", str(picture)]
    assert main(arguments) == 0
    text = capfd.readouterr().out
    assert "surprisal: bits for each byte" in text and "weakest margins" in text
    ElementTree.parse(picture)
    plain = tmp_path / "plain.svg"
    assert main(["info", str(path), "--plot", str(plain)]) == 0
    assert len(plain.read_text()) < len(picture.read_text())


def test_info_alone_loads_no_library_for_it() -> None:
    code = (
        "import sys; from llmzip.cli.main import main; "
        f"main(['info', {str(DATA / 'v1_tiny.crm')!r}, *sys.argv[1:]]); "
        "print(sorted({'torch', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    for arguments in ([], ["--chart"]):
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("columns", [40, 120])
def test_explain_on_a_terminal(columns: int) -> None:
    pty = pytest.importorskip("pty", exc_type=ImportError)
    ours, theirs = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "llmzip", "explain", str(DATA / "v1_tiny.crm"), "--no-model"],
        stdout=theirs, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"},
    )  # fmt: skip
    os.close(theirs)
    told = b""
    try:
        while part := os.read(ours, 4096):
            told += part
    except OSError:  # the end of a terminal
        pass
    finally:
        os.close(ours)
    assert run.stderr is not None
    assert run.stderr.read() == b"" and run.wait() == 0
    run.stderr.close()
    text = told.decode().replace("\x1b[1m", "").replace("\x1b[0m", "")
    rows = [line.split() for line in text.splitlines()]
    assert "─" * 40 in text and "…" not in text
    assert ["4", "18-25", "6", "patched", "-", "107", "13.36", "2", "-"] in rows
    assert "5 pieces, 1,416 bits with 1,088 of metadata, 177 bytes" in text
