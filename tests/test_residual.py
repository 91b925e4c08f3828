"""Varints, the cursor and patches: byte literals, limits, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.errors import Corrupt, FormatError, Truncated
from llmzip.store.residual import (
    MAX_RANK,
    MAX_TOKEN_ID,
    Ranked,
    check_patches,
    pack_literal,
    pack_patches,
    read_literal,
    read_patches,
)
from llmzip.store.varint import MAX_VARINT, Cursor, encode_varint, unzigzag, zigzag


def cursor(data: bytes) -> Cursor:
    return Cursor(data, what="test")


VARINTS = {
    0: "00",
    1: "01",
    127: "7f",
    128: "8001",
    16383: "ff7f",
    16384: "808001",
    2**63 - 1: "ffffffffffffffff7f",
}


@pytest.mark.parametrize("value", VARINTS)
def test_varint_bytes(value: int) -> None:
    assert encode_varint(value).hex() == VARINTS[value]
    assert cursor(bytes.fromhex(VARINTS[value])).varint() == value


@pytest.mark.parametrize("value", [-1, MAX_VARINT + 1])
def test_varint_out_of_range_is_not_written(value: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        encode_varint(value)


@pytest.mark.parametrize(
    "data, message",
    [
        ("8000", "padded"),
        ("ff8000", "padded"),
        ("80808080808080808001", "2\\*\\*63"),
        ("ffffffffffffffffff01", "2\\*\\*63"),
        ("80" * 200, "2\\*\\*63"),
    ],
)
def test_varint_has_one_spelling(data: str, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        cursor(bytes.fromhex(data)).varint()


def test_zigzag_order() -> None:
    assert [zigzag(value) for value in (0, -1, 1, -2, 2)] == [0, 1, 2, 3, 4]
    assert [unzigzag(code) for code in range(5)] == [0, -1, 1, -2, 2]


@settings(max_examples=100, derandomize=True, database=None)
@given(value=st.integers(-(2**62), 2**62 - 1), rest=st.binary(max_size=3))
def test_varint_and_zigzag_round_trip(value: int, rest: bytes) -> None:
    source = cursor(encode_varint(zigzag(value)) + rest)
    assert unzigzag(source.varint()) == value
    assert bytes(source.take(source.remaining)) == rest


@pytest.mark.parametrize("error", [Truncated, Corrupt])
def test_reading_past_the_end_names_the_place(error: type[FormatError]) -> None:
    source = Cursor(b"\x80", what="thing", base=40, short=error)
    with pytest.raises(error, match="thing ends too early: 1 bytes expected at byte 41, 0 left"):
        source.varint()
    source = Cursor(b"abc", what="thing", base=40, short=error)
    assert bytes(source.take(1)) == b"a"
    with pytest.raises(error, match="3 bytes expected at byte 41, 2 left"):
        source.take(3)
    assert bytes(source.take(2)) == b"bc"
    source.finish()


def test_a_part_keeps_its_place_in_the_file() -> None:
    whole = Cursor(b"abcdef", what="whole", base=10)
    whole.take(1)
    part = whole.part(3, what="part")
    assert part.offset == 11 and part.remaining == 3 and whole.offset == 14
    with pytest.raises(Corrupt, match="part: 3 unused bytes at byte 11"):
        part.finish()


def test_patch_bytes() -> None:
    patches = [(0, 5), (1, 300), (9, 49151)]
    data = pack_patches(patches)
    assert data.hex(" ") == "03 00 00 07 05 ac 02 ff ff 02"
    assert read_patches(cursor(data), num_tokens=10) == tuple(patches)
    assert pack_patches([]) == b"\0"
    assert read_patches(cursor(b"\0"), num_tokens=1) == ()


def test_literal_bytes() -> None:
    patches = ((0, 5), (1, 300), (2, 0))
    data = pack_literal(patches)
    assert data.hex(" ") == "05 ac 02 00"
    assert read_literal(cursor(data), num_tokens=3) == patches


@pytest.mark.parametrize("patches", [[(1, 5), (1, 6)], [(3, 5), (2, 6)], [(-1, 5)], [(0, -1)]])
def test_patches_out_of_order_are_not_written(patches: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError):
        pack_patches(patches)
    with pytest.raises(Corrupt):
        check_patches(patches, num_tokens=10)


def test_position_limit() -> None:
    data = pack_patches([(9, 1)])
    assert read_patches(cursor(data), num_tokens=11) == ((9, 1),)
    assert read_patches(cursor(data), num_tokens=10) == ((9, 1),)
    with pytest.raises(Corrupt, match="position 9"):
        read_patches(cursor(data), num_tokens=9)


def test_token_id_limit() -> None:
    for read, data in ((read_patches, b"\1\0"), (read_literal, b"")):
        for token_id in (MAX_TOKEN_ID - 1, MAX_TOKEN_ID):
            found = read(cursor(data + encode_varint(token_id)), num_tokens=1)
            assert found == ((0, token_id),)
        with pytest.raises(Corrupt, match="token id"):
            read(cursor(data + encode_varint(MAX_TOKEN_ID + 1)), num_tokens=1)


def test_patch_count_limits() -> None:
    full = pack_patches([(0, 1), (1, 1), (2, 1)])
    assert len(read_patches(cursor(full), num_tokens=3)) == 3
    with pytest.raises(Corrupt, match="3 patches"):
        read_patches(cursor(full), num_tokens=2)  # more patches than tokens
    with pytest.raises(Corrupt, match="3 patches"):
        read_patches(cursor(full[:-1]), num_tokens=3)  # more patches than bytes
    with pytest.raises(Corrupt, match="patches"):
        read_patches(cursor(encode_varint(MAX_VARINT)), num_tokens=65535)


def test_literal_needs_its_bytes() -> None:
    with pytest.raises(Corrupt, match="3 tokens, 2 bytes left"):
        read_literal(cursor(b"\1\1"), num_tokens=3)
    with pytest.raises(Corrupt, match="too early"):
        read_literal(cursor(b"\1\x80\1"), num_tokens=3)


@settings(max_examples=100, derandomize=True, database=None)
@given(patches=st.dictionaries(st.integers(0, 65534), st.integers(0, MAX_TOKEN_ID), max_size=20))
def test_patches_round_trip(patches: dict[int, int]) -> None:
    pairs = tuple(sorted(patches.items()))
    source = cursor(pack_patches(pairs))
    assert read_patches(source, num_tokens=65535) == pairs
    source.finish()


@settings(max_examples=200, derandomize=True, database=None)
@given(data=st.binary(max_size=24), num_tokens=st.integers(1, 40))
def test_any_bytes_give_patches_or_a_format_error(data: bytes, num_tokens: int) -> None:
    source = cursor(data)
    try:
        patches = read_patches(source, num_tokens=num_tokens)
    except FormatError:
        return
    # What is accepted has one spelling only.
    assert pack_patches(patches) == data[: source.offset]


@pytest.mark.parametrize(
    "rank, problem",
    [
        (Ranked(1, 1, 0), ""),
        (Ranked(0, 2, 1), ""),
        (Ranked(255, 1, 0), ""),
        (Ranked(0, MAX_RANK, 255), ""),
        (Ranked(0, 1, 0), "most likely"),
        (Ranked(-1, 2, 0), "ranks"),
        (Ranked(3, 0, 0), "ranks"),
        (Ranked(256, 1, 0), "ranks 257 to 257, at most 256"),
        (Ranked(255, 2, 0), "ranks 256 to 257, at most 256"),
        (Ranked(3, 2, 2), "token 2 of 2"),
        (Ranked(3, 2, -1), "token -1 of 2"),
    ],
)
def test_ranks(rank: Ranked, problem: str) -> None:
    assert problem in rank.problem and bool(rank.problem) == bool(problem)
    patches = [(2, 7), (4, rank)]
    if problem:
        with pytest.raises(Corrupt, match="position 4"):
            check_patches(patches, num_tokens=9, allow_ranked=True)
    else:
        check_patches(patches, num_tokens=9, allow_ranked=True)
    with pytest.raises(Corrupt, match="only token ids"):
        check_patches(patches, num_tokens=9)


def test_ranks_have_no_plain_form() -> None:
    for pack in (pack_patches, pack_literal):
        with pytest.raises(ValueError, match="position 1"):
            pack([(0, 1), (1, Ranked(1, 1, 0))])


def test_ranks_compare_by_value_and_sort() -> None:
    assert Ranked(1, 2, 0) == Ranked(1, 2, 0) != Ranked(1, 2, 1)
    assert len({Ranked(1, 2, 0), Ranked(1, 2, 0)}) == 1
    assert sorted([Ranked(2, 1, 0), Ranked(1, 3, 2)])[0] == Ranked(1, 3, 2)


def test_many_varints_at_once() -> None:
    values = [0, 1, 127, 128, 300, 16384, MAX_VARINT, 5]
    data = b"".join(map(encode_varint, values))
    for count in range(len(values) + 1):
        source = cursor(data + b"\x80")
        assert source.varints(count) == values[:count]
        rest = source.varints(len(values) - count)
        assert rest == values[count:] and source.remaining == 1
    with pytest.raises(Corrupt, match="too early"):
        cursor(data).varints(len(values) + 1)
    for bad, message in (("058000", "padded"), ("05" + "80" * 9 + "01", "2\\*\\*63")):
        with pytest.raises(Corrupt, match=message):
            cursor(bytes.fromhex(bad)).varints(2)


@settings(max_examples=200, derandomize=True, database=None)
@given(data=st.binary(max_size=30), count=st.integers(0, 6))
def test_many_varints_are_one_after_the_other(data: bytes, count: int) -> None:
    outcomes = []
    for read in (lambda c: c.varints(count), lambda c: [c.varint() for _ in range(count)]):
        source = cursor(data)
        try:
            outcomes.append((read(source), source.offset))
        except FormatError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
