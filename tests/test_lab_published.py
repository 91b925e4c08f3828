"""Published figures: as the papers have them, in our units, each with its source."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from llmzip.lab.published import (
    published_brittleness,
    published_capacities,
    published_for,
    published_margins,
    published_scaling,
)


def one(model, source="PG19", measure="at 99"):
    (found,) = (
        each for each in published_capacities(measure=measure, source=source) if each.model == model
    )
    return found


def test_nats_become_bits():
    largest = one("Llama-3.1-8B")
    assert largest.tokens == 1568
    assert largest.info_gain_bits == pytest.approx(7020, abs=1)  # 4866 nats
    assert largest.info_gain_bits_std == pytest.approx(547 / math.log(2))
    assert largest.bits_a_dimension == pytest.approx(1.71, abs=0.005)


def test_bits_stay_bits():
    ours = one("SmolLM2-135M", measure="exact")
    assert (ours.tokens, ours.tokens_std) == (38.5, 14.1)
    assert (ours.info_gain_bits, ours.info_gain_bits_std) == (168, 66)
    assert ours.bits_a_dimension == pytest.approx(0.29, abs=0.005)
    assert ours.origin.arxiv == "2607.21231"


def test_shares_of_the_bound_are_those_of_the_paper():
    found = published_capacities(measure="at 99", source="PG19")
    shares = [each.token_gain / each.bound_tokens for each in found]
    assert min(shares) == pytest.approx(0.057, abs=0.001)  # published: 0.05 to 0.28
    assert max(shares) == pytest.approx(0.283, abs=0.001)


def test_what_was_not_published_is_none():
    assert one("Pythia-160M", source="fanfics").info_gain_bits is None
    assert one("Pythia-160M", source="fanfics").bits_a_dimension is None
    assert one("Mamba-130M").tokens is None
    assert not [e for e in published_capacities(source="fanfics") if e.model == "Pythia-2.8B"]


def test_every_figure_has_a_source_and_is_there_once():
    everything = [*published_capacities(), *published_scaling()]
    for each in everything:
        assert each.origin.authors[-4:].isdigit() and each.origin.where
        assert (each.tokens or 1) > 0 and (each.info_gain_bits or 1) > 0
    counts = Counter((e.model, e.source, e.measure) for e in published_capacities())
    assert max(counts.values()) == 1
    assert {each.num_mem for each in published_capacities()} == {1}


def test_scaling_begins_with_one_vector():
    small = [each for each in published_scaling() if each.model == "Pythia-160M"]
    assert [each.num_mem for each in small] == [1, 2, 4, 8, 16, 32]
    assert [each.tokens for each in small] == [80, 192, 384, 640, 1280, 2016]
    assert small[-1].info_gain_bits is None and small[-1].note
    densities = [each.bits_a_dimension for each in small[:-1]]
    assert densities[-1] == pytest.approx(0.61, abs=0.005)
    assert {each.model for each in published_scaling()} == {"Pythia-160M", "Llama-3.2-1B"}


def test_greedy_decoding():
    assert len(published_margins()) == 4 * 3 * 2
    assert {each.margin for each in published_margins()} == {0.5, 1.0, 2.0}
    (row,) = (
        each
        for each in published_margins()
        if (each.model, each.rule, each.tokens) == ("SmolLM2-1.7B", "margin 1", 317)
    )
    assert row.greedy == 0.879 and row.loss == "cross-entropy"
    at_99 = [each for each in published_brittleness() if each.rule == "stop at 99 %"]
    assert len(at_99) == 3
    assert all(each.teacher_forced >= 0.99 and each.greedy <= 0.004 for each in at_99)


@pytest.mark.parametrize(
    ("model", "same"),
    [
        ("HuggingFaceTB/SmolLM2-135M", {"SmolLM2-135M"}),
        ("EleutherAI/pythia-410m-deduped", {"Pythia-410M"}),
        ("unknown", set()),
        ("meta-llama/Llama-3.2-11B", set()),  # not 1B
    ],
)
def test_what_stands_beside_a_model(model, same):
    found = published_for(model)
    assert {each.model for each in found} == same | {"Pythia-160M"}
    assert len(found) == len(set(found))
    assert all(e.measure == "at 99" for e in found if e.model == "Pythia-160M")


def test_the_smallest_model_is_not_there_twice():
    found = published_for("pythia-160m")
    assert len(found) == len(set(found))
    assert {each.measure for each in found} == {"at 99", "exact"}
