"""The page of a file: every token with what is known of it, closed in itself, and harmless."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.image import imread

import llmzip
from llmzip.cli.main import main
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.config import DecompressSettings
from llmzip.inspect.explain import TokenFacts, explain_bytes, explain_tokens
from llmzip.inspect.explain_page import explain_page
from llmzip.inspect.pieces import Piece, pieces_of
from llmzip.inspect.report import read_report
from llmzip.store.container import parse_container, read_container
from tests.browser import Page, browse, in_browser
from tests.containers import cram_of
from tests.tiny_models import SHORT_TEXT, TEXT

CRAM = {"budget_bits": 60.0, "max_steps": 30, "context_tokens": 16, "preset": "fast"}
HOSTILE = "<script>alert(1)</script>\"'\x1b[31m\u202e".encode()


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama"))


@pytest.fixture(scope="module")
def crammed(llama: str) -> bytes:
    return llmzip.compress(SHORT_TEXT, model=llama, **CRAM)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def path(crammed: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "tale.crm"
    path.write_bytes(crammed)
    return path


@pytest.fixture(scope="module")
def page(path: Path, llama: str) -> Path:
    html = path.with_suffix(".html")
    assert main(["explain", str(path), "--model", llama, "--html", str(html)]) == 0
    return html


def facts_of(data: bytes, model: str) -> tuple[list[Piece], dict[int, list[TokenFacts]]]:
    found = parse_container(data)
    return explain_tokens(found.container, pieces_of(found), DecompressSettings(model=model))


def test_tokens_add_up_to_their_pieces(crammed: bytes, llama: str) -> None:
    pieces, facts = facts_of(crammed, llama)
    assert pieces == explain_bytes(crammed, DecompressSettings(model=llama))
    chunks = cram_of(read_container(crammed)).chunks
    assert b"".join(fact.data for number in sorted(facts) for fact in facts[number]) == SHORT_TEXT
    for piece, chunk in zip(pieces, chunks, strict=True):
        own = facts[piece.number]
        assert len(own) == piece.num_tokens
        assert piece.surprisal_bits == pytest.approx(sum(fact.surprisal_bits for fact in own))
        patched = {position for position, _ in chunk.patches}
        assert {place for place, fact in enumerate(own) if fact.is_patch} == patched
        margins = [fact.margin for fact in own if not fact.is_patch]
        assert chunk.mem is None or None not in margins
        assert all(fact.margin is None for fact in own if fact.is_patch)


def test_segments_have_tokens_too(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
    monkeypatch.setattr("llmzip.codecs.arith.segments._SEGMENT_BYTES", 150)
    monkeypatch.setattr("llmzip.inspect.explain._WINDOW_TOKENS", 20)
    data = llmzip.compress(TEXT[:400].encode(), model=llama, codec="arith", shared_mem=0)
    pieces, facts = facts_of(data, llama)
    assert len(pieces) > 1
    joined = b"".join(fact.data for number in sorted(facts) for fact in facts[number])
    assert joined == TEXT[:400].encode()
    assert all(piece.surprisal_bits == piece.stream_bits for piece in pieces)
    every = [fact for own in facts.values() for fact in own]
    assert all(fact.margin is None and not fact.is_patch for fact in every)
    assert all(math.isfinite(fact.surprisal_bits) and fact.surprisal_bits > 0 for fact in every)


def test_what_the_page_says(page: Path, crammed: bytes, llama: str) -> None:
    shown = Page(page.read_text("utf-8"))
    pieces, facts = facts_of(crammed, llama)
    report = read_report(crammed)
    tokens = [each for each in shown.all("span") if "t" in each.get("class", "").split()]
    told = [each for each in tokens if "title" in each]
    assert len(told) == report.num_tokens
    stored = [each["title"] for each in told if "patch" in each["class"].split()]
    literal = sum(piece.num_tokens for piece in pieces if piece.kind == "literal")
    assert sum("patched" in title for title in stored) == report.num_patches > 0
    assert sum("stored by itself" in title for title in stored) == literal
    assert len(stored) == report.num_patches + literal
    marks = [each for each in shown.all("a") if "title" in each]
    assert [each["id"] for each in marks] == [f"chunk-{piece.number}" for piece in pieces]
    first = facts[1][0]
    assert f"surprisal {first.surprisal_bits:.2f} bits" in told[0]["title"]
    assert told[0]["title"].endswith(", chunk 1")
    for words in (f"{report.original_bytes:,} → {report.container_bytes:,} bytes", "vectors",
                  f"{report.bit_counts.vectors:,}", "xz -9e"):  # fmt: skip
        assert words in shown.text
    bars = [each for each in shown.all("rect") if each.get("height") == "40"]
    assert sum(float(each["width"]) for each in bars) == pytest.approx(1000, abs=1)


def test_text_of_files_does_nothing(crammed: bytes) -> None:
    report, pieces = read_report(crammed), pieces_of(parse_container(crammed))
    split = "é".encode()
    facts = {
        1: [
            TokenFacts(data=HOSTILE, surprisal_bits=1.0, margin=2.0),
            TokenFacts(data=split[:1], surprisal_bits=1.0, margin=2.0),
            TokenFacts(data=split[1:], surprisal_bits=20.0, is_patch=True),
        ]
    }
    text = explain_page(report, pieces, facts, {}, name="<b>.crm")
    shown = Page(text)
    assert len(shown.all("script")) == 1 and not shown.all("b", onclick="x")
    assert "\x1b" not in text and "\u202e" not in text and "<b>.crm" in shown.text
    tips = [each["title"] for each in shown.all("span") if "title" in each]
    assert tips[0].startswith("“<script>alert(1)</script>\"'\\x1b[31m\\u202e”, surprisal 1.00 bits")
    assert tips[1].startswith("part of a character") and tips[2].startswith("“é”")
    assert "probability 50.0 %" in tips[0] and "probability 1e-06" in tips[2]


def test_a_stored_file_has_a_page(tmp_path: Path) -> None:
    path = tmp_path / "x.crm"
    path.write_bytes(llmzip.compress(bytes(range(256)) * 4, offline=True))
    html = tmp_path / "x.html"
    assert main(["explain", str(path), "--html", str(html)]) == 0
    assert "stored" in Page(html.read_text("utf-8")).text


@pytest.mark.parametrize(
    "options, code, words",
    [
        (["--html", "x.txt"], 2, "does not end in .html"),
        (["--html", "x.html", "--no-model"], 2, "leave --no-model out"),
        (["--html", "there.html"], 1, "there.html"),
        (["--html", "no/where.html"], 1, "cannot write into no"),
    ],
)
def test_what_cannot_end_well_is_refused_before_any_work(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").write_text("mine")
    assert main(["explain", str(path), *options]) == code
    assert words in capfd.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


def test_without_jinja2_it_is_said_what_to_install(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llmzip.cli.pictures.find_spec", lambda name: None)
    assert main(["explain", str(path), "--html", "x.html"]) == 1
    assert "pip install jinja2" in capfd.readouterr().err


@in_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("scheme", "colour"), [(1, (246, 247, 249)), (0, (15, 18, 22))])
def test_a_browser_shows_it(
    page: Path, tmp_path: Path, width: int, scheme: int, colour: tuple[int, int, int]
) -> None:
    shot = tmp_path / "shot.png"
    _, complaints, asked = browse(
        tmp_path, page, f"--screenshot={shot}", f"--window-size={width},2600",
        f"--blink-settings=preferredColorScheme={scheme}",
    )  # fmt: skip
    assert not complaints and not asked
    pixels = (imread(shot)[..., :3] * 255).round().astype(int)  # [height, width, 3]
    assert pixels.shape[1] == width
    edges = pixels[:2500, [0, 1, 2, -3, -2, -1]]  # nothing is wider than the window
    assert (edges == colour).all()


@in_browser
def test_a_link_leads_to_a_chunk(page: Path, tmp_path: Path) -> None:
    dom, complaints, asked = browse(tmp_path, page, "--dump-dom", fragment="#chunk-2")
    assert not complaints and not asked
    shown = Page(dom)
    (mark,) = shown.all("a", id="chunk-2")
    assert "chosen" in mark["class"]
    (told,) = re.findall(r'<output class="told">([^<]*)</output>', dom)
    assert told == mark["title"]
