"""The tree of decisions: every token on one leaf, and the shape that docs/FORMAT.md describes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmzip.codecs.token_odds import Tree, build_tree
from tests.arith_prose import Node, grow, way_to

BYTES = [bytes([i]) for i in range(256)]
WORDS = [None, b"", b"the", b" the", b"t", b"th", b"e", b"h", b"the", b"\xff", b"\x00", b" ", None]
WORDS_HASH = "4cbcd5a7085ebdb615f7a457184eb865d382e28d057f6ed1e7e1ddb01d78b6bf"
BYTES_HASH = "5dd12cee914fcff33fe0472a31fe91897a69663a30fa226c096eebd9f50965d5"

vocabularies = st.lists(
    st.none() | st.binary(max_size=2) | st.sampled_from([b"a", b"ab", b"abc"]), max_size=40
).filter(lambda meanings: sum(map(bool, meanings)) > 1)


def digest(tree: Tree) -> str:
    arrays = (
        tree.leaf_tokens, tree.leaf_weights, tree.first, tree.middle, tree.last, tree.children,
        tree.nodes, tree.bits,
    )  # fmt: skip
    return hashlib.sha256(b"".join(a.astype("<i8").tobytes() for a in arrays)).hexdigest()


def arrive(tree: Tree, turns: list[int]) -> int:
    """Where some turns from the root lead: a node, or -1 - token."""
    at = 0
    for turn in turns:
        assert at >= 0, "a way beyond a leaf"
        at = int(tree.children[at, turn])
    return at


def test_a_vocabularys_tree_is_part_of_the_format() -> None:
    assert digest(build_tree(WORDS)) == WORDS_HASH
    assert digest(build_tree([*BYTES, None, b"the", b" the"])) == BYTES_HASH


@given(vocabularies)
def test_every_token_is_where_its_turns_lead(meanings: list[bytes | None]) -> None:
    tree = build_tree(meanings)
    tokens = {i for i, data in enumerate(meanings) if data}
    for token in range(len(meanings)):
        nodes = tree.nodes[token]
        if token not in tokens:
            assert (nodes == -1).all() and not tree.bits[token].any()
            continue
        size = int((nodes >= 0).sum())
        assert (nodes[:size] >= 0).all()  # nothing but -1 behind the last one
        turns = tree.bits[token].tolist()
        assert not any(turns[size:])
        assert [arrive(tree, turns[:depth]) for depth in range(size)] == nodes[:size].tolist()
        assert arrive(tree, turns[:size]) == -1 - token
    assert sorted(tree.leaf_tokens) == sorted(tokens)
    leaves = [-1 - child for child in tree.children.ravel().tolist() if child < 0]
    assert sorted(leaves) == sorted(tokens)
    assert tree.num_nodes == len(tokens) - 1


@settings(max_examples=200)
@given(vocabularies)
@example(BYTES)
@example([b"b", b"a"])
@example([b"b", None, b"a", b"c"])
def test_the_shape_is_what_the_format_says(meanings: list[bytes | None]) -> None:
    tree = build_tree(meanings)
    nodes = grow(meanings)

    def number(half: Node | int) -> int:
        return -1 - half if isinstance(half, int) else half.number

    assert tree.first.tolist() == [node.first for node in nodes]
    assert tree.middle.tolist() == [node.middle for node in nodes]
    assert tree.last.tolist() == [node.last for node in nodes]
    assert tree.children.tolist() == [[number(n.left), number(n.right)] for n in nodes]
    for token, data in enumerate(meanings):
        if data:
            way = way_to(nodes, token)
            assert [n for n in tree.nodes[token].tolist() if n >= 0] == [n.number for n, _ in way]
            assert tree.bits[token].tolist()[: len(way)] == [turn for _, turn in way]


@given(vocabularies)
def test_no_other_cut_is_nearer_to_half(meanings: list[bytes | None]) -> None:
    tree = build_tree(meanings)
    below = [0, *np.cumsum(tree.leaf_weights).tolist()]
    for first, middle, last in zip(tree.first, tree.middle, tree.last, strict=True):
        off = [abs(2 * below[cut] - below[first] - below[last]) for cut in range(first + 1, last)]
        assert off[middle - first - 1] == min(off)


def test_leaves_lie_by_their_bytes_then_ids() -> None:
    tree = build_tree(WORDS)
    assert [(WORDS[i], i) for i in tree.leaf_tokens] == sorted(
        (b, i) for i, b in enumerate(WORDS) if b
    )
    assert tree.leaf_weights.tolist() == [2**32 // (int(i) + 40) for i in tree.leaf_tokens]


def test_two_tokens() -> None:
    tree = build_tree([b"b", None, b"a"])
    assert tree.depth == 1
    assert tree.children.tolist() == [[-3, -1]]
    assert tree.nodes.tolist() == [[0], [-1], [0]]
    assert tree.bits.tolist() == [[1], [0], [0]]


def test_three_tokens() -> None:
    """The first of three weighs the most, so it is alone: nearest to half."""
    tree = build_tree([b"a", b"b", b"c"])
    assert tree.depth == 2
    assert tree.children.tolist() == [[-1, 1], [-2, -3]]
    assert tree.nodes.tolist() == [[0, -1], [0, 1], [0, 1]]
    assert tree.bits.tolist() == [[0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize("meanings", [[b"a"], [None, b""], []])
def test_fewer_than_two_tokens_make_no_tree(meanings: list[bytes | None]) -> None:
    with pytest.raises(AssertionError):
        build_tree(meanings)


def test_frequent_tokens_take_fewer_turns() -> None:
    """An even vocabulary of 4096 would take twelve turns for each."""
    meanings = [b"%04d" % (i * 1237 % 4096) for i in range(4096)]
    sizes = (build_tree(meanings).nodes >= 0).sum(axis=1)
    assert sizes[:40].mean() < 9 < 12 < sizes[-2000:].mean()
