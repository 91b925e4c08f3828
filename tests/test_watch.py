"""A chunk coming into focus: what is drawn, and that it is drawn only where it can be."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from llmzip.cli import watch as watch_module
from llmzip.cli.watch import picture, show_watch, spark
from llmzip.progress import ChunkView, Progress


def view(*margins: float, first_token: int = 0, step: int = 3) -> ChunkView:
    words = (b"It was", b" the\n", b" b\xc3\xa9st\x1b", b" \xff of", b" times")
    return ChunkView(
        first_token=first_token, step=step, pieces=words[: len(margins)], margins=margins,
        wanted=0.25, sees_signs=False,
    )  # fmt: skip


def drawn(what: object, *, color: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        width=100,
        force_terminal=color,
        color_system="standard" if color else None,
    )
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_picture_says_what_is_right_and_by_how_much() -> None:
    lines = drawn(
        picture(view(3.9, 0.1, -2.0, 9.0, -math.inf), [2.0, 1.0], "cram  1/5 chunks")
    ).splitlines()
    assert lines[0].rstrip() == ("chunk at token 0  step 3, free  2/5 tokens  0.60 logits short")
    assert lines[1].rstrip() == "short  █▅"
    assert lines[2].rstrip() == "margin ▇▁▁█▁"
    assert lines[4].rstrip() == "It was the⏎ bést\\x1b \ufffd of times"
    assert lines[6].rstrip() == "cram  1/5 chunks"


def test_colours_tell_right_from_wrong() -> None:
    text = drawn(picture(view(3.0, 0.1, -2.0, -math.inf), [1.0], ""), color=True)
    body = text.split("\n\n")[1]
    for style, words in (
        ("32", "It was"),
        ("33", " the⏎"),
        ("4;31", " bést"),
        ("90", " \ufffd of"),
    ):
        assert f"\x1b[{style}m{words}" in body


def test_a_line_of_bars() -> None:
    assert spark([4.0, 2.0, 0.0]) == "█▅▁"
    assert spark([0.0, 0.0]) == "▁▁" and spark([]) == ""
    assert len(spark([1.0] * 500)) == 60


def test_the_screen_follows_one_chunk(monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    frames: list[str] = []

    class Live:
        def __init__(self, **more: object) -> None:
            self.console = Console(file=io.StringIO())

        def __enter__(self) -> Live:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def update(self, what: object, *, refresh: bool) -> None:
            assert refresh
            frames.append(drawn(what))

    monkeypatch.setattr(watch_module, "Live", Live)
    monkeypatch.setattr(watch_module, "_SECONDS_A_FRAME", 0.0)
    looked = []

    def look(number: int, first_token: int = 0) -> Progress:
        def see() -> ChunkView:
            looked.append(number)
            return view(float(number), -1.0, first_token=first_token, step=number)

        return Progress(stage="cram", chunks_total=4, view=see)

    with show_watch() as screen:
        screen(Progress(stage="measure", bytes_total=9))
        for number in (1, 2, 3):
            screen(look(number))
        screen(look(4, first_token=82))
        screen(Progress(stage="verify", chunks_total=4, message="done"))
    assert looked == [1, 2, 3, 4]
    assert frames[0].startswith("measure")
    assert [frame.splitlines()[1].rstrip() for frame in frames[1:5]] == [
        "short  █", "short  ██", "short  ███", "short  █",
    ]  # fmt: skip
    assert "chunk at token 82" in frames[4] and frames[-1].startswith("verify")


def test_frames_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A view takes a moment: none is asked for between two frames."""
    looked = []

    def see() -> ChunkView:
        looked.append(1)
        return view(1.0)

    monkeypatch.setattr(watch_module, "_SECONDS_A_FRAME", 3600.0)
    with show_watch() as screen:
        for _ in range(5):
            screen(Progress(stage="cram", view=see))
    assert len(looked) == 1
