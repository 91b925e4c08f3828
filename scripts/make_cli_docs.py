"""Write docs/CLI.md and man/llmzip.1 from the command line itself.

    python scripts/make_cli_docs.py            # write both
    python scripts/make_cli_docs.py --check    # exit 1 if one of them is stale

Owns how a command and its options are laid out on both pages, and what the manual says beside them:
examples, environment, files. What the options mean is said in `llmzip.cli`.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from llmzip import __version__
from llmzip.cli.main import EPILOG, app

ROOT = Path(__file__).resolve().parent.parent
MARKDOWN, MAN = ROOT / "docs" / "CLI.md", ROOT / "man" / "llmzip.1"
RELEASE_DATE = "2026-11-25"  # of the manual; changes with the version
NAME = "llmzip"
_MANY = 3  # commands of a group that have an option, for it to be said once
_EXAMPLES = (
    ("llmzip compress book.txt", "Make book.crm; book.txt stays."),
    ("llmzip decompress book.crm", "Restore book.txt."),
    (
        "llmzip compress --codec arith book.txt",
        "Make a smaller file, in less time, without vectors.",
    ),
    ("llmzip compress --dry-run book.txt", "Say how long it will take and how large it will be."),
    ("tar c notes | llmzip compress --codec arith - > notes.tar.crm", "Use pipes."),
    ("llmzip decompress --bytes 0:1000 book.crm -o start.txt", "Restore a part."),
    ("llmzip decompress --salvage damaged.crm -o rest.txt", "Restore what is intact."),
    ("llmzip doctor", "Say what a report of a bug should say."),
)
_ENVIRONMENT = {
    "LLMZIP_CACHE": "Folder of models and of what is remembered of them; else llmzip in "
    "XDG_CACHE_HOME, or the system's place for caches.",
    "HF_HUB_OFFLINE": "Set to 1, nothing is fetched from the hub.",
    "NO_COLOR": "Set to anything, there are no colours.",
}
_FILES = (
    ("NAME.crm", "What compress makes of NAME.txt, NAME.md and the like."),
    ("NAME.crm.part", "What is done of a NAME.crm under way; the same command goes on from there."),
    ("~/.cache/llmzip", "Models, on Linux."),
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An argument or an option."""

    spelling: str  # "-o, --output FILE"
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """A command, or a group with its `commands`."""

    name: str  # "llmzip lab capacity"
    usage: str
    paragraphs: tuple[str, ...]
    sections: dict[str, list[Entry]]
    commands: tuple[Entry, ...]


def pages() -> list[Page]:
    """Every command, `llmzip` itself first, groups before what is in them."""
    root = typer.main.get_command(app)
    return list(_pages(root, typer.Context(root, info_name=NAME, **root.context_settings)))


def _pages(command: Any, context: Any) -> Iterator[Page]:
    inside = command.list_commands(context) if hasattr(command, "list_commands") else []
    found = [(name, command.get_command(context, name)) for name in inside]
    # -h is an option of every command; it is said once.
    shown = [
        param
        for param in command.get_params(context)
        if not getattr(param, "hidden", False) and (param.name != "help" or not context.parent)
    ]
    sections: dict[str, list[Entry]] = {}
    for param in shown:
        own = "Arguments" if param.param_type_name == "argument" else "Options"
        title = getattr(param, "rich_help_panel", None) or own
        sections.setdefault(title, []).append(_entry(param))
    yield Page(
        name=context.command_path,
        usage=_usage(context.command_path, shown, is_group=bool(found)),
        paragraphs=_paragraphs(command.help),
        sections=sections,
        commands=tuple(Entry(spelling=n, meaning=_paragraphs(c.help)[0]) for n, c in found),
    )
    for name, each in found:
        yield from _pages(each, typer.Context(each, info_name=name, parent=context))


def _paragraphs(text: str | None) -> tuple[str, ...]:
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(text or ""))
    return tuple(" ".join(block.split()) for block in blocks)


def _usage(path: str, params: list[Any], *, is_group: bool) -> str:
    arguments = [_argument(param) for param in params if param.param_type_name == "argument"]
    return " ".join([path, "[OPTION]...", *arguments, *(["COMMAND"] if is_group else [])])


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    if param.nargs == -1 and not name.endswith("..."):
        name += "..."
    return name if param.required or name.startswith("[") else f"[{name}]"


def _entry(param: Any) -> Entry:
    if param.param_type_name == "argument":
        return Entry(spelling=_argument(param), meaning=_meaning(param))
    short_first = sorted(param.opts, key=lambda spelling: spelling.startswith("--"))
    spelling = ", ".join([*short_first, *param.secondary_opts])
    if not (param.is_flag or getattr(param, "count", False)):
        spelling += f" {param.metavar or param.name.upper()}"
    return Entry(spelling=spelling, meaning=_meaning(param))


def _meaning(param: Any) -> str:
    notes = []
    default, shows = param.default, getattr(param, "show_default", True)
    if isinstance(shows, str):
        notes.append(f"default: {shows}")
    elif shows and isinstance(default, (str, int, float, Path)) and default is not False:
        notes.append(f"default: {default}")
    if param.envvar and getattr(param, "show_envvar", True):
        notes.append(f"environment: {param.envvar}")
    help = " ".join((param.help or "").split())
    return f"{help} [{'; '.join(notes)}]" if notes else help


def exit_codes() -> list[tuple[str, str]]:
    """As `llmzip --help` ends with them."""
    listed = EPILOG.partition("Exit codes: ")[2].partition(". ")[0]
    return [(code, text) for code, _, text in (each.partition(" ") for each in listed.split("; "))]


def markdown(found: list[Page]) -> str:
    """docs/CLI.md."""
    lines = [
        "# The command line",
        "",
        "Written by `scripts/make_cli_docs.py` from the commands themselves; `make docs` writes it"
        " anew.",
        "",
        *(f"- [`{page.name}`](#{page.name.replace(' ', '-')})" for page in found),
    ]
    for page in found:
        lines += ["", f"## {page.name}", "", f"```\n{page.usage}\n```"]
        lines += [line for paragraph in page.paragraphs for line in ("", paragraph)]
        if page.commands:
            lines += _table("command", page.commands)
        for title, entries in page.sections.items():
            lines += _table(title.lower(), entries)
        if page.name == NAME:
            lines += ["", EPILOG.partition("Exit codes: ")[0].strip()]
            lines += ["", "| exit code | meaning |", "|---|---|"]
            lines += [f"| {code} | {text} |" for code, text in exit_codes()]
            lines += ["", "Treat any other code as a failure."]
    return "\n".join(lines) + "\n"


def _table(title: str, entries: Any) -> list[str]:
    def cell(text: str) -> str:
        return text.replace("|", r"\|").replace("*", r"\*").replace("<", r"\<")

    rows = [
        f"| `{each.spelling.replace('|', chr(92) + '|')}` | {cell(each.meaning)} |"
        for each in entries
    ]
    return ["", f"| {title} | |", "|---|---|", *rows]


def manual(found: list[Page]) -> str:
    """man/llmzip.1, in the man macros."""
    root = found[0]
    lines = [
        '.\\" Written by scripts/make_cli_docs.py from the commands themselves.',
        f'.TH {NAME.upper()} 1 "{RELEASE_DATE}" "{NAME} {__version__}" "User Commands"',
        ".SH NAME",
        rf"{NAME} \- compress text with a frozen language model",
        ".SH SYNOPSIS",
    ]
    for number, page in enumerate(page for page in found[1:] if not page.commands):
        lines += ([".br"] if number else []) + [_synopsis(page)]
    lines += [".SH DESCRIPTION", *_text(root.paragraphs)]
    lines += [".PP", _escaped(EPILOG.partition("Exit codes: ")[0].strip())]
    lines += [".SH OPTIONS", *_entries(root)]
    lines += [".SH COMMANDS"]
    for page in found[1:]:
        lines += [f".SS {_escaped(page.name.removeprefix(NAME + ' '))}", *_text(page.paragraphs)]
        if page.commands:
            lines += _shared_lines(page, found)
        else:
            lines += _entries(page, without=_shared(page.name.rpartition(" ")[0], found))
    lines += [".SH EXIT STATUS", *_list(exit_codes())]
    lines += [".SH ENVIRONMENT", *_list(_environment(found))]
    lines += [".SH FILES", *_list(_FILES), ".SH EXAMPLES"]
    for command, text in _EXAMPLES:
        lines += [".TP", rf".B {_escaped(command)}", _escaped(text)]
    lines += [".SH SEE ALSO", ".BR xz (1),", ".BR zstd (1)"]
    return "\n".join(lines) + "\n"


def _synopsis(page: Page) -> str:
    words = page.name.split()
    return (
        rf"\fB{_escaped(' '.join(words))}\fR {_escaped(page.usage.removeprefix(page.name + ' '))}"
    )


def _text(paragraphs: tuple[str, ...]) -> list[str]:
    return [line for text in paragraphs for line in (".PP", _escaped(text))][1:]


def _shared(group: str, found: list[Page]) -> dict[tuple[str, Entry], list[str]]:
    """Titles and entries that several commands of a group have, with the names of those."""
    having: dict[tuple[str, Entry], list[str]] = {}
    for page in found if group != NAME else ():
        if page.name.rpartition(" ")[0] == group:
            for title, entries in page.sections.items():
                for each in entries:
                    having.setdefault((title, each), []).append(page.name.rpartition(" ")[2])
    return {entry: names for entry, names in having.items() if len(names) >= _MANY}


def _shared_lines(page: Page, found: list[Page]) -> list[str]:
    """What commands of a group share, once."""
    shared = _shared(page.name, found)
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for (_, each), names in shared.items():
        groups.setdefault(tuple(names), []).append(each)
    lines = []
    for names, entries in groups.items():
        lines += [".PP", _escaped(f"Of {', '.join(names[:-1])} and {names[-1]}:")]
        lines += _list((each.spelling, each.meaning) for each in entries)
    return lines


def _entries(page: Page, *, without: Collection[tuple[str, Entry]] = ()) -> list[str]:
    lines = []
    for title, entries in page.sections.items():
        own = [each for each in entries if (title, each) not in without]
        if own and title not in ("Arguments", "Options"):
            lines += [".PP", rf"\fI{_escaped(title)}\fR"]
        lines += _list((each.spelling, each.meaning) for each in own)
    return lines


def _list(entries: Any) -> list[str]:
    lines = []
    for name, text in entries:
        lines += [".TP", rf"\fB{_escaped(name)}\fR", _escaped(text)]
    return lines


def _environment(found: list[Page]) -> list[tuple[str, str]]:
    named = {
        variable: f"Stands for {entry.spelling.split()[-2 if ' ' in entry.spelling else -1]}."
        for page in found
        for entries in page.sections.values()
        for entry in entries
        for variable in re.findall(r"environment: (\w+)", entry.meaning)
    }
    return sorted({**named, **_ENVIRONMENT}.items())


def _escaped(text: str) -> str:
    """Text that roff leaves as it is: hyphens that can be copied, nothing taken for a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("~", r"\(ti").replace("^", r"\(ha")
    text = text.replace("'", r"\(aq").replace("`", r"\(ga")
    return rf"\&{text}" if text.startswith(".") else text


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or say which are stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    is_check = parser.parse_args(arguments).check
    found = pages()
    stale = 0
    for path, text in ((MARKDOWN, markdown(found)), (MAN, manual(found))):
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if is_check:
            print(f"stale: {path.relative_to(ROOT)}; make docs writes it anew", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
    return int(is_check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
