"""From logits to the log-odds of decisions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmzip.codecs.token_odds import Floats, TokenOdds, build_tree
from tests.arith_prose import Node, grow, tokens_under, way_to

CPU = torch.device("cpu")
MEANINGS: list[bytes | None] = [b"d", None, b"a", b"ab", b"", b"c", b"b", b"e", b"abc", b"f", b"g"]
TOKENS = np.array([i for i, data in enumerate(MEANINGS) if data])
LARGE = [b"%05d" % (i * 7919 % 100003) for i in range(50_000)]


@pytest.fixture(scope="module")
def large() -> TokenOdds:
    return TokenOdds(build_tree(LARGE), CPU)


def small(noise: float = 0.0) -> TokenOdds:
    return TokenOdds(build_tree(MEANINGS), CPU, noise=noise)


def some_logits(num_rows: int, size: int = len(MEANINGS), *, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(num_rows, size, generator=torch.Generator().manual_seed(3))


def mass_of(token_odds: TokenOdds, masses: Floats) -> dict[int, float]:
    leaves = token_odds.tree.leaf_tokens.tolist()
    return dict(zip(leaves, np.diff(masses).tolist(), strict=True))


def test_masses_are_what_the_format_says() -> None:
    logits = some_logits(5)
    token_odds = small()
    weights = {int(token): 2**32 // (int(token) + 40) for token in TOKENS}
    for row, masses in zip(logits.tolist(), token_odds.masses(logits), strict=True):
        total = sum(math.exp(x) for x in row)
        found = mass_of(token_odds, masses)
        for token in TOKENS.tolist():
            share = math.exp(row[token]) / total
            floor = weights[token] / sum(weights.values())
            expected = (1 - 2**-13) * share + 2**-13 * floor
            assert found[token] == pytest.approx(expected, rel=1e-5)


def test_masses_sum_to_one_where_all_tokens_mean_something(large: TokenOdds) -> None:
    masses = large.masses(some_logits(2, len(LARGE)))
    assert masses.shape == (2, len(LARGE) + 1) and masses.dtype == np.float64
    assert masses[:, 0].tolist() == [0.0, 0.0]
    assert masses[:, -1] == pytest.approx(1.0, abs=1e-6)
    assert (np.diff(masses) > 0).all()


def test_tokens_that_mean_nothing_have_no_mass() -> None:
    logits = some_logits(1)
    logits[0, 1] = 50.0  # of a token that stands for no bytes
    masses = small().masses(logits)
    assert masses[0, -1] == pytest.approx(2**-13, abs=1e-9)  # the floor is all that is left
    odds = small().path_odds(masses[[0] * len(TOKENS)], TOKENS)
    assert np.isfinite(odds).all()


def test_odds_are_what_the_format_says() -> None:
    nodes = grow(MEANINGS)
    token_odds = small()
    masses = token_odds.masses(some_logits(len(TOKENS)))
    odds = token_odds.path_odds(masses, TOKENS)

    def mass(row: Floats, half: Node | int) -> float:
        found = mass_of(token_odds, row)
        return sum(found[token] for token in tokens_under(half))

    for row, token, own in zip(masses, TOKENS.tolist(), odds.tolist(), strict=True):
        way = way_to(nodes, token)
        for (node, _), x in zip(way, own, strict=False):
            expected = math.log(mass(row, node.right) / mass(row, node.left))
            assert x == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert own[len(way) :] == [0.0] * (token_odds.tree.depth - len(way))


def test_a_tokens_turns_have_its_share() -> None:
    token_odds = small()
    masses = token_odds.masses(some_logits(len(TOKENS)))
    odds = token_odds.path_odds(masses, TOKENS)
    signed = np.where(token_odds.tree.bits[TOKENS] == 1, odds, -odds)
    is_decision = token_odds.tree.nodes[TOKENS] >= 0
    shares = np.prod(np.where(is_decision, 1 / (1 + np.exp(-signed)), 1.0), axis=1)
    for row, token, share in zip(masses, TOKENS.tolist(), shares.tolist(), strict=True):
        assert share == pytest.approx(mass_of(token_odds, row)[token] / row[-1], rel=1e-9)


def test_the_decoders_odds_are_the_encoders(large: TokenOdds) -> None:
    """What one asks for node by node is what the other has of a whole way, but for the library's
    logarithm."""
    tree = large.tree
    tokens = np.array([0, 1, 7, 4999, 49_999])
    masses = large.masses(some_logits(len(tokens), len(LARGE)))
    odds = large.path_odds(masses, tokens)
    for row, token, own in zip(masses, tokens, odds.tolist(), strict=True):
        nodes = [node for node in tree.nodes[token].tolist() if node >= 0]
        assert [large.node_odds(row, node) for node in nodes] == pytest.approx(
            own[: len(nodes)], rel=1e-12, abs=1e-14
        )


@pytest.mark.parametrize("sure_of", [0, 25_000, 49_999, None])
def test_the_floor_keeps_all_finite_and_exact(large: TokenOdds, sure_of: int | None) -> None:
    """Where the model is sure beyond doubt the tree's weights alone divide the rest. Doubles hold
    their differences to a small part of the guard."""
    logits = torch.zeros(1, len(LARGE))
    if sure_of is None:
        logits[:] = float("-inf")
        logits[0, 7] = 0.0
        sure_of = 7
    else:
        logits[0, sure_of] = 1e4
    masses = large.masses(logits)
    tree = large.tree
    weights = tree.leaf_weights.tolist()
    below = [0]
    for weight in weights:
        below.append(below[-1] + weight)
    leaf = tree.leaf_tokens.tolist().index(sure_of)
    worst = 0.0
    for node in range(tree.num_nodes):
        first, middle, last = int(tree.first[node]), int(tree.middle[node]), int(tree.last[node])
        odds = large.node_odds(masses[0], node)
        assert math.isfinite(odds)
        if first <= leaf < last:
            assert abs(odds) < 28  # 13 bits of the floor and 17 of the rarest token's share
            continue
        exact = math.log((below[last] - below[middle]) / (below[middle] - below[first]))
        worst = max(worst, abs(odds - exact))
    assert worst < 1e-5


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    token_odds = small()
    logits = some_logits(len(TOKENS))
    odds = token_odds.path_odds(token_odds.masses(logits), TOKENS)
    for constant in (-64.0, 3.0, 1000.0):
        moved = token_odds.path_odds(token_odds.masses(logits + constant), TOKENS)
        assert np.abs(moved - odds).max() < 1e-3


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    token_odds = small()
    logits = some_logits(6)
    together = token_odds.masses(logits)
    for row in range(6):
        assert np.array_equal(token_odds.masses(logits[row : row + 1])[0], together[row])
    assert token_odds.masses(logits[:0]).shape == (0, len(TOKENS) + 1)


def test_logits_of_any_dtype_are_read_in_fp32() -> None:
    logits = some_logits(2).bfloat16()
    assert np.array_equal(small().masses(logits), small().masses(logits.float()))


def test_noise_is_bounded_and_only_the_decoders() -> None:
    noise = 0.01
    masses = small().masses(some_logits(1))
    odds = [small().node_odds(masses[0], node) for node in range(len(TOKENS) - 1)]
    noisy = small(noise)
    assert np.array_equal(
        noisy.path_odds(masses, TOKENS[:1]), small().path_odds(masses, TOKENS[:1])
    )
    moves = [noisy.node_odds(masses[0], node) - x for _ in range(99) for node, x in enumerate(odds)]
    assert max(map(abs, moves)) <= noise * 1.000001
    assert min(moves) < -0.8 * noise and max(moves) > 0.8 * noise
