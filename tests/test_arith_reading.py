"""The model read a token at a time says what it says of all tokens at once, for every architecture:
with and without a start token, shared vectors and a prefix, and while lanes forget."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from llmzip.codecs.arith.reader import Reader, Steps
from llmzip.codecs.arith.segment_coding import measure_noise
from llmzip.codecs.arith.segments import BLOCK_TOKENS, Lanes, shape_of
from llmzip.codecs.shared import opening_embeds
from llmzip.codecs.token_odds import Floats, TokenOdds, build_tree
from llmzip.lm.layout import segment_start
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve
from tests import tiny_models
from tests.tiny_models import ARCHITECTURES, TEXT, make_tiny_model

CPU = torch.device("cpu")
TOLERANCE = 5e-4  # of log-odds, in nats; the models' own are of the order of 1 to 10


@dataclass(frozen=True, kw_only=True)
class Loaded:
    lm: FrozenLM
    tokens: Tokens
    token_odds: TokenOdds
    ids: list[int]  # many

    def reader(self, *, mem: bool = False, window_tokens: int = 1024) -> Reader:
        vectors = None
        if mem:
            generator = torch.Generator().manual_seed(1)
            vectors = torch.randn(3, self.lm.dim, generator=generator)
        opening = opening_embeds(self.lm, segment_start(self.tokens.bos_id), vectors)
        num_start = len(segment_start(self.tokens.bos_id))
        assert opening.shape == (1, num_start + 3 * mem, self.lm.dim)
        return Reader(self.lm, self.token_odds, opening, window_tokens=window_tokens)


def load(directory: Path) -> Loaded:
    lm = load_model(resolve(str(directory)), device=CPU, dtype=torch.float32, attention="sdpa")
    tokens = Tokens.load(directory)
    token_odds = TokenOdds(build_tree(tokens.meanings[: lm.vocab_size]), CPU)
    ids = tokens.ids_of(TEXT.encode() * 2)
    rng = random.Random(0)  # the model half knows its text: some slips make it attend to more
    ids = [rng.randrange(256) if rng.random() < 0.1 else token for token in ids]
    return Loaded(lm=lm, tokens=tokens, token_odds=token_odds, ids=ids)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[False, True], ids=["no_bos", "bos"])
def model(arch: str, request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Loaded:
    return load(tiny_model(arch, bos=request.param))


@pytest.fixture(scope="module")
def far_reading(arch: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """A model with more positions, so that its lanes can be longer than a window and a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "NUM_POSITIONS", 1024)
        directory = make_tiny_model(tmp_path_factory.mktemp("far") / arch, arch, bos=True)
    yield load(directory)


def stepped_odds(reader: Reader, token_odds: TokenOdds, lanes: Lanes, ids: Sequence[int]) -> Floats:
    """As `Reader.known_odds`, from steps as the decoder takes them; 0 where nothing is read yet."""
    odds = np.zeros((len(ids), token_odds.tree.depth))

    def note(steps: Steps, places: list[int]) -> None:
        masses = steps.masses()
        if masses is not None:
            assert len(masses) == len(places)
            odds[places] = token_odds.path_odds(masses, np.array([ids[i] for i in places]))

    prefix = reader.open_prefix(lanes.prefix_tokens)
    for place in range(lanes.prefix_tokens):
        note(prefix, [place])
        prefix.read([ids[place]])
    spans = lanes.spans
    longest = max(last - first for first, last in spans)
    steps = reader.open_lanes([prefix] * len(spans), longest)
    for step in range(longest):
        going = [i for i, (first, last) in enumerate(spans) if first + step < last]
        if len(going) < len(spans):
            spans = [spans[i] for i in steps.keep(going)]
        places = [first + step for first, _ in spans]
        note(steps, places)
        steps.read([ids[i] for i in places])
    return odds


@pytest.mark.parametrize(
    "num_tokens, num_lanes, prefix_tokens, mem",
    [
        (70, 1, 0, False),
        (101, 3, 0, False),
        (101, 3, 20, False),
        (130, 2, 31, True),
        (9, 9, 0, True),
    ],
)
def test_steps_say_what_known_tokens_say(
    model: Loaded, num_tokens: int, num_lanes: int, prefix_tokens: int, mem: bool
) -> None:
    ids = model.ids[:num_tokens]
    lanes = shape_of(num_tokens, num_lanes, prefix_tokens)
    reader = model.reader(mem=mem)
    known = reader.known_odds(lanes, ids)
    assert np.abs(stepped_odds(reader, model.token_odds, lanes, ids) - known).max() < TOLERANCE
    decisions = model.token_odds.tree.nodes[ids] >= 0
    assert not known[~decisions].any()
    # Nothing stands before a first token where there is neither start token, vectors nor prefix.
    silent = [place for place in range(num_tokens) if not known[place].any()]
    starts = [0] if lanes.prefix_tokens else [first for first, _ in lanes.spans]
    assert silent == ([] if mem or model.tokens.bos_id is not None else starts)


def test_a_lane_longer_than_a_block(model: Loaded) -> None:
    """Blocks are read one after the other; lane 0 ends with one, lane 1 a token later."""
    num_tokens = 2 * BLOCK_TOKENS + 1
    ids, lanes = model.ids[:num_tokens], shape_of(num_tokens, 2, 0)
    assert [last - first for first, last in lanes.spans] == [BLOCK_TOKENS, BLOCK_TOKENS + 1]
    reader = model.reader()
    known = reader.known_odds(lanes, ids)
    assert np.abs(stepped_odds(reader, model.token_odds, lanes, ids) - known).max() < TOLERANCE


def test_lanes_do_not_see_one_another(model: Loaded) -> None:
    """Each lane is as it would be alone: a segment of one lane with the same before it."""
    ids, lanes = model.ids[:150], shape_of(150, 3, 0)
    reader = model.reader(mem=True)
    known = reader.known_odds(lanes, ids)
    for first, last in lanes.spans:
        alone = reader.known_odds(shape_of(last - first, 1, 0), ids[first:last])
        assert np.abs(known[first:last] - alone).max() < TOLERANCE


def test_what_stands_before_a_lane_is_read(model: Loaded) -> None:
    """A prefix and vectors change what is said; a prefix is to a lane as its own past."""
    ids = model.ids[:120]
    plain, tuned = model.reader(), model.reader(mem=True)
    whole = shape_of(120, 1, 0)
    assert np.abs(plain.known_odds(whole, ids) - tuned.known_odds(whole, ids)).max() > 0.01
    lanes = shape_of(120, 2, 40)
    behind = tuned.known_odds(lanes, ids)
    first, last = lanes.spans[1]
    joined = ids[: lanes.prefix_tokens] + ids[first:last]
    alone = tuned.known_odds(shape_of(len(joined), 1, 0), joined)[lanes.prefix_tokens :]
    assert np.abs(behind[first:last] - alone).max() < TOLERANCE
    cold = tuned.known_odds(shape_of(last - first, 1, 0), ids[first:last])
    assert np.abs(behind[first:last] - cold).max() > 0.01


def test_lanes_of_several_batches_of_known_tokens(model: Loaded) -> None:
    """More lanes than are read at once."""
    ids, lanes = model.ids[:200], shape_of(200, 11, 13)
    reader = model.reader()
    told: list[int] = []
    known = reader.known_odds(lanes, ids, on_tokens=told.append)
    assert told == sorted(told) and told[-1] == 200 and len(told) > 1
    assert np.abs(stepped_odds(reader, model.token_odds, lanes, ids) - known).max() < TOLERANCE


@pytest.mark.parametrize("prefix_tokens, mem", [(0, False), (33, True)])
def test_steps_and_known_tokens_forget_alike(
    far_reading: Loaded, prefix_tokens: int, mem: bool
) -> None:
    """Lanes longer than twice a window of one block: they forget twice, and end at other steps."""
    num_lanes = 2 if prefix_tokens else 1
    num_tokens = prefix_tokens + num_lanes * (3 * BLOCK_TOKENS + 9) + num_lanes - 1
    ids = (far_reading.ids * 2)[:num_tokens]
    lanes = shape_of(num_tokens, num_lanes, prefix_tokens)
    reader = far_reading.reader(mem=mem, window_tokens=BLOCK_TOKENS)
    known = reader.known_odds(lanes, ids)
    assert (
        np.abs(stepped_odds(reader, far_reading.token_odds, lanes, ids) - known).max() < TOLERANCE
    )
    # The first token that is read with less before it is the one with index 512; the lane's next
    # one is the first to be predicted otherwise.
    remembering = far_reading.reader(mem=mem).known_odds(lanes, ids)
    for first, last in lanes.spans:
        turn = first + 2 * BLOCK_TOKENS + 1
        assert np.abs(known[first:turn] - remembering[first:turn]).max() < TOLERANCE
        assert np.abs(known[turn:last] - remembering[turn:last]).max() > 10 * TOLERANCE


def test_a_recurrence_reads_anew_what_is_left(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "NUM_POSITIONS", 1024)
        directory = make_tiny_model(tmp_path_factory.mktemp("far") / "mamba", "mamba", bos=True)
    model = load(directory)
    ids = (model.ids * 2)[: 3 * BLOCK_TOKENS]
    reader = model.reader(window_tokens=BLOCK_TOKENS)
    known = reader.known_odds(shape_of(len(ids), 1, 0), ids)
    left = ids[BLOCK_TOKENS:]
    anew = reader.known_odds(shape_of(len(left), 1, 0), left)
    turn = 2 * BLOCK_TOKENS + 1
    assert np.abs(known[turn:] - anew[turn - BLOCK_TOKENS :]).max() < TOLERANCE


def test_noise_is_what_the_steps_differ_by(model: Loaded) -> None:
    ids, lanes = model.ids[:90], shape_of(90, 3, 12)
    reader = model.reader()
    known = reader.known_odds(lanes, ids)
    noise = measure_noise(reader, model.token_odds, lanes, ids, known, num_steps=1000)
    assert 0 <= noise < TOLERANCE
    first, last = lanes.spans[1]
    for place, seen in ((0, False), (5, True), (first + 6, True), (last - 1, False)):
        moved = known.copy()
        moved[place, 0] += 0.25
        found = measure_noise(reader, model.token_odds, lanes, ids, moved, num_steps=8)
        has_row = place > 0 or model.tokens.bos_id is not None
        assert (found > 0.2) == (has_row and (seen or place == 0))


def test_nothing_but_zero_is_said_before_anything_is_read(arch: str, model: Loaded) -> None:
    reader = model.reader()
    steps = reader.open_lanes([reader.open_prefix(0)] * 2, 4)
    masses = steps.masses()
    if model.tokens.bos_id is None:
        assert masses is None
    else:
        assert masses is not None and np.array_equal(masses[0], masses[1])
    steps.read([5, 6])
    assert steps.masses() is not None
