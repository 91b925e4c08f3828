"""Probabilities of decisions, compared one by one with an implementation of docs/FORMAT.md's prose.

Every turn's `ones` must agree, so any rule that the two do not share shows within a few tokens.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from llmzip.codecs.arith.predictor import Predictor
from llmzip.codecs.log_odds import MAX_ODDS
from llmzip.codecs.token_odds import build_tree
from tests.arith_prose import Prose, grow, order_of, way_to

# Uneven, with tokens that mean nothing: the tree is 3 to 6 deep.
SMALL = [b"d", None, b"a", b"ab", b"", b"c", b"b", b"e", b"abc", b"f", b"\xff", b"g", b"h"]
SMALL_IDS = [i for i, data in enumerate(SMALL) if data]
SKEWED = [b"%05d" % (i * 7919 % 100003) if i % 4 == 0 else None for i in range(82_000)]
ONES_HASH = "926f88585c2670f1235649a20826918120c6ba993a63776696bca272c4b7c990"

Odds = Callable[[int, int, int], int]  # place, turns before, node -> x


class Known:
    """A coder that notes the probabilities it is given."""

    def __init__(self) -> None:
        self.ones: list[int] = []

    def bit(self, ones: int, bit: int | None) -> int:
        assert bit is not None
        assert 1 <= ones < 1 << 24
        self.ones.append(ones)
        return bit


class Told(Known):
    """A coder that reads bits."""

    def __init__(self, bits: Sequence[int]) -> None:
        super().__init__()
        self._bits = list(bits)

    def bit(self, ones: int, bit: int | None) -> int:
        assert bit is None
        return super().bit(ones, self._bits.pop(0))


def some_odds(seed: int, *, spread: float = 3000) -> Odds:
    """Log-odds at random, whatever they are asked for, the same for both implementations."""

    def odds(place: int, depth: int, node: int) -> int:
        x = random.Random(f"{seed} {place} {depth} {node}").gauss(0, spread)
        return round(max(-MAX_ODDS, min(MAX_ODDS, x)))

    return odds


def compare(
    meanings: Sequence[bytes | None],
    ids: Sequence[int],
    odds: Odds,
    *,
    num_lanes: int = 1,
    prefix_tokens: int = 0,
) -> Counter[str]:
    """Run both over a segment; what happened on the way, by the prose."""
    tree = build_tree(meanings)
    forecast = Predictor(tree, num_lanes)
    prose = Prose(grow(meanings), num_lanes)
    for number, (lane, place) in enumerate(order_of(prefix_tokens, len(ids), num_lanes)):

        def here(depth: int, node: int, place: int = place) -> int:
            return odds(place, depth, node)

        coder, expected = Known(), []
        assert forecast.code(coder, lane, here, ids[place]) == ids[place]
        turns = iter(tree.bits[ids[place]].tolist())

        def turn_of(ones: int, expected: list[int] = expected, turns=turns) -> int:
            expected.append(ones)
            return next(turns)

        assert prose.token(lane, here, turn_of) == ids[place]
        assert coder.ones == expected, f"token {number} of the stream, in lane {lane}"
    assert forecast.pasts == prose.lanes
    return prose.events


def at_random(rng: random.Random, num_tokens: int) -> list[int]:
    return rng.choices(
        SMALL_IDS, weights=[1 / (i + 1) for i in range(len(SMALL_IDS))], k=num_tokens
    )


def repeating(rng: random.Random, num_tokens: int) -> list[int]:
    """Phrases of 3 to 60 tokens in turn, with a slip now and then."""
    phrases = [at_random(rng, size) for size in (3, 5, 11, 24, 60)]
    ids: list[int] = []
    while len(ids) < num_tokens:
        ids += rng.choice(phrases)
    return [rng.choice(SMALL_IDS) if rng.random() < 0.02 else token for token in ids[:num_tokens]]


@pytest.mark.parametrize("num_lanes, prefix_tokens", [(1, 0), (3, 0), (3, 40), (13, 7)])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_tokens(num_lanes: int, prefix_tokens: int, seed: int) -> None:
    ids = at_random(random.Random(seed), 500)
    events = compare(SMALL, ids, some_odds(seed), num_lanes=num_lanes, prefix_tokens=prefix_tokens)
    assert events["match is right"] > 50 and events["match is wrong"] > 50
    assert events["match ended"] > 10


@pytest.mark.parametrize("num_lanes, prefix_tokens", [(1, 0), (3, 0), (3, 100)])
@pytest.mark.parametrize("seed", [0, 1])
def test_repeating_tokens(num_lanes: int, prefix_tokens: int, seed: int) -> None:
    ids = repeating(random.Random(seed), 900)
    events = compare(SMALL, ids, some_odds(seed), num_lanes=num_lanes, prefix_tokens=prefix_tokens)
    assert events["longer than 31"] > 5 and events["match ended"] > 5
    assert num_lanes == 1 or events["match in another lane"] > 5


@pytest.mark.parametrize("num_lanes", [1, 3])
def test_many_tokens_seen_once(num_lanes: int) -> None:
    """A tree of more levels than are told apart, of which most nodes are new."""
    ids = random.Random(5).choices(range(0, len(SKEWED), 4), k=200)
    assert (build_tree(SKEWED).nodes[ids] >= 0).sum(axis=1).max() > 16
    compare(SKEWED, ids, some_odds(2), num_lanes=num_lanes)


@pytest.mark.parametrize("meanings", [[b"b", b"a"], [b"c", None, b"a", b"b"]])
def test_the_smallest_vocabularies(meanings: list[bytes | None]) -> None:
    rng = random.Random(3)
    ids = rng.choices([i for i, data in enumerate(meanings) if data], k=400)
    compare(meanings, ids, some_odds(4), num_lanes=2, prefix_tokens=10)


@pytest.mark.parametrize("x", [0, 307, -307, 306, 5120, -5119, MAX_ODDS, -MAX_ODDS])
def test_odds_at_the_bounds(x: int) -> None:
    """Also a model that is always sure, and often wrong: weights and outputs reach their limits."""
    compare(SMALL, at_random(random.Random(6), 200), lambda place, depth, node: x)


def test_tokens_without_a_model() -> None:
    compare(SMALL, repeating(random.Random(7), 300), lambda place, depth, node: 0, num_lanes=2)


def test_a_model_that_knows() -> None:
    """Sure and right: what is learnt is that it may be believed."""
    ids = at_random(random.Random(8), 300)
    tree = build_tree(SMALL)
    compare(
        SMALL, ids, lambda place, depth, node: 9000 * (2 * int(tree.bits[ids[place], depth]) - 1)
    )


def test_old_counts_weigh_less() -> None:
    """One token over and over, until counts of turns are halved and those of tokens stop."""
    rng = random.Random(9)
    ids = [SMALL_IDS[0] if rng.random() < 0.99 else rng.choice(SMALL_IDS) for _ in range(1500)]
    events = compare(SMALL, ids, some_odds(9))
    assert events["turns halved"] > 1
    assert events["count capped"] > 100


def test_counts_of_a_token_stop() -> None:
    """Two tokens on one side, one of them at its limit, until their sum reaches the next level."""
    nodes = grow(SMALL)
    left = [token for token in SMALL_IDS if way_to(nodes, token)[0][1] == 0][:2]
    ids = random.Random(14).choices(left, weights=[68, 32], k=1100)
    assert compare(SMALL, ids, some_odds(15))["count capped"] > 300


def test_a_match_that_is_always_wrong() -> None:
    """Tokens chosen against what is expected, until a match's probability is at its limit."""
    nodes = grow(SMALL)
    first_turn = {token: way_to(nodes, token)[0][1] for token in SMALL_IDS}
    few = [token for turn in (0, 1) for token in SMALL_IDS if first_turn[token] == turn][:2]
    few += [token for token in SMALL_IDS if first_turn[token] == 1][:2]
    rng = random.Random(15)
    prose = Prose(nodes, 1)
    for _ in range(700):
        expected = prose.expected(0)
        token = rng.choice(
            [t for t in few if expected is None or first_turn[t] != first_turn[expected]]
        )
        turns = iter([turn for _, turn in way_to(nodes, token)])
        prose.token(0, lambda depth, node: 0, lambda ones, turns=turns: next(turns))
    assert prose.events["match is wrong"] > 500 and not prose.events["match is right"]
    compare(SMALL, prose.lanes[0], some_odds(16))


def test_lanes_that_repeat_each_other_as_they_go() -> None:
    """Matches at the very end of another lane, whose next token has just been coded."""
    ids = at_random(random.Random(10), 90)
    same = [SMALL_IDS[3]] * 90
    for one, other in (
        (ids, ids),
        (ids, ids[1:] + ids[:1]),
        (ids[1:] + ids[:1], ids),
        (same, same),
    ):
        events = compare(SMALL, one + other, some_odds(10), num_lanes=2)
        assert events["match in another lane"] > 0


def test_a_match_that_runs_past_the_end_of_another_lane() -> None:
    """What a longer lane repeats of a shorter one ends with it."""
    phrase = at_random(random.Random(11), 40)
    events = compare(SMALL, [*phrase, *phrase, phrase[0]], some_odds(13), num_lanes=2)
    assert events["not coded yet"] > 0


def test_what_is_read_is_what_was_coded() -> None:
    """Without the tokens, from the turns alone, the probabilities are the same."""
    ids, odds = repeating(random.Random(12), 300), some_odds(14)
    tree = build_tree(SMALL)
    writer, reader = Predictor(tree, 2), Predictor(tree, 2)
    for lane, place in order_of(20, len(ids), 2):

        def here(depth: int, node: int, place: int = place) -> int:
            return odds(place, depth, node)

        known = Known()
        writer.code(known, lane, here, ids[place])
        turns = tree.bits[ids[place]][tree.nodes[ids[place]] >= 0].tolist()
        told = Told(turns)
        assert reader.code(told, lane, here, None) == ids[place]
        assert told.ones == known.ones


def test_the_model_is_asked_at_each_node_on_the_way() -> None:
    tree = build_tree(SMALL)
    asked: list[tuple[int, int]] = []

    def odds(depth: int, node: int) -> int:
        asked.append((depth, node))
        return 0

    Predictor(tree, 1).code(Known(), 0, odds, 8)
    assert asked == list(enumerate(node for node in tree.nodes[8].tolist() if node >= 0))


def test_repetition_becomes_cheap() -> None:
    """With no help from the model: bits of the tenth time are few."""
    tree = build_tree(SMALL)
    forecast = Predictor(tree, 1)
    phrase = at_random(random.Random(13), 50)
    costs = []
    for _ in range(10):
        bits = 0.0
        for token in phrase:
            coder = Known()
            forecast.code(coder, 0, lambda depth, node: 0, token)
            ones = np.array(coder.ones) / (1 << 24)
            turns = tree.bits[token][: len(ones)]
            bits -= float(np.log2(np.where(turns, ones, 1 - ones)).sum())
        costs.append(bits)
    assert costs[9] < 0.2 * costs[0]


def test_probabilities_are_part_of_the_format() -> None:
    tree = build_tree(SMALL)
    forecast = Predictor(tree, 2)
    coder = Known()
    ids = [SMALL_IDS[i * i % 89 % 11] for i in range(400)]
    for lane, place in order_of(30, len(ids), 2):
        forecast.code(
            coder,
            lane,
            lambda depth, node, i=place: (i * 977 + depth * 3301) % 6001 - 3000,
            ids[place],
        )
    packed = struct.pack(f"<{len(coder.ones)}I", *coder.ones)
    assert len(coder.ones) == 1407
    assert hashlib.sha256(packed).hexdigest() == ONES_HASH
