"""Line breaks taken out of texts: exactly, cheaply where lines are filled, and only there."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmzip.codecs.arith import line_breaks as wrap_module
from llmzip.codecs.arith.line_breaks import choose_wrap, num_joints, rewrap, unwrap, walk_flags
from llmzip.errors import Corrupt
from llmzip.store.range_coder import RangeReader, RangeWriter

# Lines that are broken for the verse's sake, most of them of 40 columns or more.
SONNETS = b"""\
Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee.

When, in disgrace with fortune and men's eyes,
I all alone beweep my outcast state,
And trouble deaf heaven with my bootless cries,
And look upon myself and curse my fate,
Wishing me like to one more rich in hope,
Featur'd like him, like him with friends possess'd,
Desiring this man's art and that man's scope,
With what I most enjoy contented least;
Yet in these thoughts myself almost despising,
Haply I think on thee, and then my state,
Like to the lark at break of day arising
From sullen earth, sings hymns at heaven's gate;
For thy sweet love remember'd such wealth brings
That then I scorn to change my state with kings.
"""


def paragraphs(num_words: int, *, seed: int = 0, size: int = 90) -> list[str]:
    """Made-up prose: English words at random, in sentences and paragraphs."""
    words = sorted(set("".join(c if c.isalpha() else " " for c in SONNETS.decode()).split()))
    rng = np.random.default_rng(seed)
    picked = [words[i].lower() for i in rng.integers(0, len(words), num_words)]
    picked = [w + "." if i % 11 == 10 else w for i, w in enumerate(picked)]
    return [" ".join(picked[i : i + size]).capitalize() for i in range(0, num_words, size)]


def filled(width: int, num_words: int = 3000, *, seed: int = 0) -> bytes:
    parts = paragraphs(num_words, seed=seed)
    return "\n\n".join("\n".join(textwrap.wrap(part, width)) for part in parts).encode()


def coded(unwrapped: bytes, flags: np.ndarray) -> bytes:
    writer = RangeWriter()
    assert walk_flags(writer, unwrapped, flags).tolist() == flags.tolist()
    return writer.finish(least_bytes=0)


def bits_per_break(text: bytes, wrap: int = 1) -> float:
    unwrapped, flags = unwrap(text, wrap)
    return 8 * len(coded(unwrapped, flags)) / int(flags.sum())


# The transform


@pytest.mark.parametrize(
    "data, wrap, unwrapped, flags",
    [
        (b"", 1, b"", ""),
        (b"a\nb", 1, b"a b", "1"),
        (b"a b\nc", 1, b"a b c", "01"),
        (b"a\r\nb c", 2, b"a b c", "10"),
        (b"a\nb", 2, b"a\nb", ""),  # not this kind of line end
        (b"a\r\nb", 1, b"a\r\nb", ""),
        (b"a\rb", 2, b"a\rb", ""),
        (b"a b\n", 1, b"a b\n", "0"),  # nothing behind the line end
        (b"\na b", 1, b"\na b", "0"),
        (b" a b ", 1, b" a b ", "0"),
        (b"a  b\n\nc\n d \ne\t f", 1, b"a  b\n\nc\n d \ne\t f", ""),  # white neighbours
        (b"a\n\tb\n\0\nc", 1, b"a\n\tb \0 c", "11"),
        (b"a\r\n\nb\n\r\nc\r\r\nd\r\ne", 2, b"a\r\n\nb\n\r\nc\r\r\nd e", "1"),
        (b"\xff\n\x80 \xa0\n\x0b", 1, b"\xff \x80 \xa0 \x0b", "101"),
        (b"-\n-\n-", 1, b"- - -", "11"),
    ],
)
def test_joints(data: bytes, wrap: int, unwrapped: bytes, flags: str) -> None:
    found, breaks = unwrap(data, wrap)
    assert found == unwrapped
    assert breaks.dtype == np.bool_ and breaks.tolist() == [flag == "1" for flag in flags]
    assert num_joints(unwrapped) == len(flags)
    assert rewrap(unwrapped, breaks, wrap) == data


PIECES = st.sampled_from(
    [b" ", b"\n", b"\r\n", b"\r", b"\t", b"\0", b"\xff", b"\xc3\xa9", b"\xa9", b"a", b"B", b"."]
)
TEXTS = st.lists(PIECES | st.sampled_from([b" a", b"a\n", b"a\r\n"]), max_size=60).map(b"".join)


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(data=TEXTS | st.binary(max_size=40), wrap=st.sampled_from([1, 2]))
@example(data=b"a" * 5000 + b"\n" + b"b" * 70000 + b" c", wrap=1)
def test_any_bytes_come_back(data: bytes, wrap: int) -> None:
    unwrapped, flags = unwrap(data, wrap)
    assert len(flags) == num_joints(unwrapped)
    assert rewrap(unwrapped, flags, wrap) == data
    stream = coded(unwrapped, flags)
    reader = RangeReader(stream, what="test")
    assert walk_flags(reader, unwrapped, None).tolist() == flags.tolist()


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(data=TEXTS, seed=st.integers(0, 99), wrap=st.sampled_from([1, 2]))
def test_any_flags_make_a_text(data: bytes, seed: int, wrap: int) -> None:
    """Each choice of flags is a text of its own, which unwraps to them."""
    unwrapped, _ = unwrap(data, wrap)
    flags = np.random.default_rng(seed).random(num_joints(unwrapped)) < 0.5
    again, found = unwrap(rewrap(unwrapped, flags, wrap), wrap)
    assert again == unwrapped and found.tolist() == flags.tolist()


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(stream=st.binary(max_size=12), unwrapped=TEXTS)
def test_any_stream_gives_flags_or_corrupt(stream: bytes, unwrapped: bytes) -> None:
    try:
        flags = walk_flags(RangeReader(stream, what="test"), unwrapped, None)
    except Corrupt:
        return
    assert len(flags) == num_joints(unwrapped)


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(
    widths=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    noise=st.sampled_from([0, 0.01, 0.3]),
    seed=st.integers(0, 99),
)
def test_long_texts_come_back(widths: list[int], noise: float, seed: int) -> None:
    unwrapped, flags = unwrap(b"\n".join(filled(width, 300) for width in widths), 1)
    flags ^= np.random.default_rng(seed).random(len(flags)) < noise
    reader = RangeReader(coded(unwrapped, flags), what="test")
    assert walk_flags(reader, unwrapped, None).tolist() == flags.tolist()


# What flags cost


def test_bytes_of_a_stream() -> None:
    """The model is part of the format."""
    unwrapped, flags = unwrap(b"One two,\nThree four\xc3\xa9\nfive\nsix. Seven", 1)
    assert (unwrapped, flags.tolist()) == (
        b"One two, Three four\xc3\xa9 five six. Seven",
        [False, True, False, True, True, False],
    )
    assert coded(unwrapped, flags).hex(" ") == "ff 84 0c 81"
    prose = SONNETS.decode().replace("\n", " ")
    text = textwrap.fill(prose, 72) + "\n" + textwrap.fill(prose, 44) + "\n"
    assert coded(*unwrap(text.encode(), 1)).hex(" ") == "3f bd 88 f0 94 07 67 15 94 75"


@pytest.mark.parametrize("width", [40, 60, 72, 79, 120, 200])
def test_filled_lines_cost_little(width: int) -> None:
    assert bits_per_break(filled(width, 12_000)) < 0.2


def test_crlf_costs_the_same() -> None:
    text = filled(70)
    unwrapped, flags = unwrap(text, 1)
    again, found = unwrap(text.replace(b"\n", b"\r\n"), 2)
    assert again == unwrapped.replace(b"\n", b"\r\n") and found.tolist() == flags.tolist()
    assert len(coded(again, found)) == len(coded(unwrapped, flags))


def test_columns_are_characters() -> None:
    wide = filled(66).decode().replace("e", "é").encode()
    assert bits_per_break(wide) < 0.2


def test_a_new_width_is_found() -> None:
    text = b"\n\n".join(filled(width, 1500, seed=width) for width in (72, 50, 65))
    assert bits_per_break(text) < 0.6


def test_lines_without_breaks_cost_almost_nothing() -> None:
    text = "\n".join(paragraphs(6000)).replace("\n", "\n\n").encode()
    unwrapped, flags = unwrap(text, 1)
    assert not flags.any()
    # One break at the end makes the stream say all that comes before it.
    unwrapped += b" end"
    flags = np.append(flags, [True])
    assert num_joints(unwrapped) == len(flags)
    assert len(coded(unwrapped, flags)) <= 20


# When it pays


@pytest.mark.parametrize("width", [50, 72, 79])
def test_wrapped_prose_is_unwrapped(width: int) -> None:
    text = filled(width)
    assert choose_wrap(text) == 1
    assert choose_wrap(text.replace(b"\n", b"\r\n")) == 2
    assert choose_wrap(text + text.replace(b"\n", b"\r\n") + text) == 1


def test_fewest_breaks() -> None:
    lines = filled(60, 300).replace(b"\n\n", b"\n").split(b"\n")
    least = wrap_module.LEAST_BREAKS
    assert choose_wrap(b"\n".join(lines[:least])) == 0
    assert choose_wrap(b"\n".join(lines[: least + 1])) == 1


def test_price(monkeypatch: pytest.MonkeyPatch) -> None:
    text = filled(72)
    bits = bits_per_break(text)
    monkeypatch.setattr(wrap_module, "MOST_BITS_PER_BREAK", bits * 1.001)
    assert choose_wrap(text) == 1
    monkeypatch.setattr(wrap_module, "MOST_BITS_PER_BREAK", bits * 0.999)
    assert choose_wrap(text) == 0


def rows(make: str, amount: int = 200) -> bytes:
    rng = np.random.default_rng(3)
    numbers = rng.integers(10, 10**5, (amount, 3))
    return "".join(make.format(*row, i=i) for i, row in enumerate(numbers)).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"\r\n" * 50,
        b"a b\n" * 8,
        b"\0" * 1000,
        np.random.default_rng(0).bytes(70_000),
        np.random.default_rng(0).choice([10, 13, 32, 65, 97], 70_000).astype(np.uint8).tobytes(),
        SONNETS,
        "\n".join(paragraphs(6000, size=400)).encode(),
        "\n\n".join(paragraphs(6000)).encode(),
        filled(25),
        filled(72, 500) + b"\n  an indented line" * 200,
        textwrap.fill("antidisestablishmentarianism " * 400, 72).encode(),
        Path(wrap_module.__file__).read_bytes(),
        Path(__file__).read_bytes(),
        rows("{},{},{},a name of some words in a column,another one here,{i}\n"),
        rows("2024-03-01 12:00:{i} worker {} has taken job {} after {} milliseconds\n"),
        rows('{{"id": {}, "size": {}, "name": "some words of text", "left": {}}}\n'),
        rows("{} {} {} words and words and more\n"),
        rows("- an item of a list, number {i}, of {} and {}\n"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_other_files_are_left_alone(text: bytes) -> None:
    assert choose_wrap(text) == 0
