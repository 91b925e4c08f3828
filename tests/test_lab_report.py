"""The report of a run: complete, closed in itself, and harmless whatever a file's name is.

What a page does is tested in a real browser, where there is one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from matplotlib.image import imread

from llmzip.errors import InputError
from llmzip.lab.folder import Folder
from llmzip.lab.report import MAX_ROWS, write_report
from tests.browser import Page, browse, in_browser

MODEL = "HuggingFaceTB/SmolLM2-135M"
HOSTILE = "<script>alert(1)</script>\"'\x1b[31m\u202e</td>"
AS_TEXT = "<script>alert(1)</script>\"'\\x1b[31m\\u202e</td>"
PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 70 20"><script>alert(2)</script>'
    '<rect style="fill: #ff0000" width="70" height="20"/></svg>'
)
STEPS = [0, 10, 25]
TOKENS = [
    ("Down", 9.5, 2.0, "011"),
    (" the", 0.2, 0.5, "111"),
    ("\n", 3.0, -0.25, "000"),
    (HOSTILE, 15.0, None, "001"),
]
COLUMNS = ("purpose", "model", "source", "name", "num_tokens", "accuracy", "exact", "detail")


def fill(path, *, study="capacity", name=HOSTILE, num_rows=3, model=MODEL):
    """A run's folder, as a study leaves it."""
    settings = {"models": [model], "num_mem": [1, 2], "texts": [HOSTILE], "random": True}
    folder = Folder.open(path, study, settings, columns=COLUMNS)
    folder.add(
        {
            "purpose": "capacity", "model": model, "source": "natural", "name": name,
            "num_tokens": 40 + place, "accuracy": 0.98765, "exact": place == 0,
        }
        for place in range(num_rows)
    )  # fmt: skip
    tokens = [
        {"text": text, "bits": bits, "margin": margin, "right": [r == "1" for r in right]}
        for text, bits, margin, right in TOKENS
    ]
    folder.write_summary(
        {
            "study": study,
            "tables": [{"title": "Capacity", "columns": ["source", "exact tokens"],
                        "rows": [["natural", "61.2 ± 12.1"], [HOSTILE, "-"]]}],
            "figures": [{"model": MODEL, "exact_tokens": {"mean": 61.25, "std": 12.1, "count": 3}}],
            "fits": {"natural": {"threshold_bits": 331.5}},
            "curve": [[1, 2.5], [2, 3.5]],
            "gain": 0.75,
            "tokens": [{"title": f"A text {HOSTILE}", "steps": STEPS, "tokens": tokens}],
            "versions": {"llmzip": "1.2.3", "torch": "2.9.0"},
        }
    )  # fmt: skip
    (path / "capacity.svg").write_text(PICTURE, "utf-8")
    folder.close()
    return path


class LabPage(Page):
    def classes(self):
        """Of the sample's tokens."""
        return [a["class"].split() for a in self.all("span") if "data-right" in a]


@pytest.fixture
def page(tmp_path):
    return LabPage(write_report(fill(tmp_path)).read_text("utf-8"))


def test_everything_is_there(page):
    for words in (
        "Capacity", MODEL, "61.2 ± 12.1", "1.2.3", "2.9.0", "random", "yes", "1, 2",
        "61.25 ± 12.1", "331.5", "0.75", "3.5", "0.9877", "38.5 ± 14.1", "arXiv 2607.21231",
        "Pythia-160M", "all 3 rows of rows.csv",
    ):  # fmt: skip
        assert words in page.text, words
    assert "detail" not in page.text  # a column that is empty in all rows
    (image,) = page.all("img")
    assert base64.b64decode(image["src"].split(",")[1]) == PICTURE.encode()


def test_names_of_files_are_shown_and_do_nothing(page):
    assert page.text.count(AS_TEXT) == 1 + 1 + 1 + 1 + 3  # setting, table, title, token, rows
    assert "\x1b" not in page.text and "\u202e" not in page.text
    assert len(page.all("script")) == 1 and "src" not in page.all("script")[0]
    tips = [each["title"] for each in page.all("span") if "title" in each]
    assert tips[3] == f"“{AS_TEXT}”: surprisal 15.00 bits, margin –"
    assert tips[2] == "“\\n”: surprisal 3.00 bits, margin -0.25 logits"


def test_hostile_models_and_pictures(tmp_path):
    fill(tmp_path, model='"><img src=x onerror=alert(1)>')
    (tmp_path / 'a"><b>.svg').write_text(PICTURE, "utf-8")
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert len(page.all("img")) == 2 and not page.all("b", onerror="alert(1)")
    assert all(each["src"].startswith("data:") for each in page.all("img"))
    assert {each["alt"] for each in page.all("img")} == {
        "Picture of the study: capacity", 'Picture of the study: a"><b>',
    }  # fmt: skip


def test_nothing_is_fetched_and_nothing_foreign_runs(tmp_path, page):
    text = (tmp_path / "report.html").read_text("utf-8")
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert "url(" not in text and "@import" not in text
    (policy,) = (e["content"] for e in page.all("meta") if "http-equiv" in e)
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


def test_the_last_step_is_shown_without_a_script(page):
    assert ["wrong" in each for each in page.classes()] == [False, False, True, False]
    assert [each[1] for each in page.classes()] == ["b5", "b0", "b3", "b6"]
    assert "Step 25: 3 of 4 right." in page.text


def test_the_same_folder_makes_the_same_page(tmp_path):
    first = write_report(fill(tmp_path)).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_many_rows_are_cut(tmp_path):
    page = Page(write_report(fill(tmp_path, num_rows=MAX_ROWS + 7)).read_text("utf-8"))
    assert f"the first {MAX_ROWS} of {MAX_ROWS + 7} rows" in page.text
    assert str(40 + MAX_ROWS - 1) in page.words and str(40 + MAX_ROWS) not in page.words


def test_a_run_that_has_just_begun(tmp_path):
    Folder.open(tmp_path, "scaling", {}, columns=COLUMNS).close()
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert "There are no rows yet." in page.text
    assert "Capacity of several vectors" in page.text and not page.all("img")


@pytest.mark.parametrize(
    ("study", "words", "title"),
    [
        ("greedy", "Greedy decoding with a margin", "Greedy decoding"),
        ("lengths", "Llama-3.1-8B", "Lengths"),
        ("rate", "", "Rate"),
        ("another", "", "another"),
    ],
)
def test_published_figures_are_those_of_the_study(tmp_path, study, words, title):
    page = Page(write_report(fill(tmp_path, study=study)).read_text("utf-8"))
    assert title in page.words
    assert ("Published figures" in page.words) == bool(words)
    assert words in page.text


def test_a_folder_that_holds_no_run(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": [{"title": "x"}]},
        {"tokens": [{"title": "x", "steps": ["a"], "tokens": []}]},
        {"tables": [{"title": "x"}]},
        {"tables": 7},
    ],
)
def test_a_summary_that_is_none_of_ours(tmp_path, change):
    fill(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    (tmp_path / "summary.json").write_text(json.dumps(summary | change), "utf-8")
    with pytest.raises(InputError, match="not what the lab writes"):
        write_report(tmp_path)


@in_browser
@pytest.mark.parametrize(
    ("fragment", "shown", "said", "wrong"),
    [
        ("", "25", "step 25: 3 of 4 right", [False, False, True, False]),
        ("#step=0", "0", "step 0: 1 of 4 right", [True, False, True, True]),
        ("#step=24", "10", "step 10: 2 of 4 right", [False, False, True, True]),
        ("#step=999", "25", "step 25: 3 of 4 right", [False, False, True, False]),
        ("#step=<b>", "25", "step 25: 3 of 4 right", [False, False, True, False]),
    ],
)
def test_a_browser_shows_a_step(tmp_path, fragment, shown, said, wrong):
    file = write_report(fill(tmp_path / "run"))
    dom, complaints, asked = browse(tmp_path, file, "--dump-dom", fragment=fragment)
    assert not complaints
    assert not asked
    page = LabPage(dom)
    (sample,) = page.all("section", **{"class": "card sample"})
    assert sample["data-shown"] == shown
    assert said in page.words
    assert ["wrong" in each for each in page.classes()] == wrong
    assert "hidden" not in page.all("div", **{"class": "controls"})[0]
    assert page.text.count(AS_TEXT) == 7
    assert "61.2 ± 12.1" in page.words and len(page.all("script")) == 1


@in_browser
def test_a_browser_would_tell_what_the_policy_forbids(tmp_path):
    """That the other tests find no complaint means something."""
    file = write_report(fill(tmp_path / "run"))
    address = "http://127.0.0.1:9/x.png"
    bad = f'<img src="{address}"><script>document.title = "ran"</script></main>'
    text = file.read_text("utf-8").replace("</main>", bad)
    file.write_text(text, "utf-8")
    dom, complaints, asked = browse(tmp_path, file, "--dump-dom")
    assert len([line for line in complaints if "Content Security Policy" in line]) == 2
    assert "<title>ran" not in dom and not asked
    file.write_text(text.replace("Content-Security-Policy", "no-policy"), "utf-8")
    dom, _, asked = browse(tmp_path, file, "--dump-dom")
    assert "<title>ran" in dom and set(asked) == {address}


@in_browser
@pytest.mark.parametrize(("scheme", "colour"), [(1, (246, 247, 249)), (0, (15, 18, 22))])
def test_a_browser_shows_light_and_dark(tmp_path, scheme, colour):
    file = write_report(fill(tmp_path / "run"))
    shot = tmp_path / "shot.png"
    browse(
        tmp_path, file, f"--screenshot={shot}", "--window-size=900,700",
        f"--blink-settings=preferredColorScheme={scheme}",
    )  # fmt: skip
    pixels = (imread(shot)[..., :3] * 255).round().astype(int)  # [height, width, 3]
    assert tuple(pixels[3, 3]) == colour
    reddest = (pixels[..., 0] == 255) & (pixels[..., 1] == 0) & (pixels[..., 2] == 0)
    assert reddest.mean() > 0.1  # the picture is shown, with its inline style
