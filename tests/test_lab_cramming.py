"""The lab's texts, recipes and full cramming, on tiny models."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmzip.errors import InputError, Interrupted, SettingsError
from llmzip.lab.batch import decode_greedily, plain_text
from llmzip.lab.capacity import run_bins, take_exact_bins
from llmzip.lab.folder import Row, read_rows
from llmzip.lab.recipes import AdamW, Recipe, paper_recipe
from llmzip.lab.runner import Run, TrialRunner
from llmzip.lab.texts import (
    Sample,
    natural_samples,
    random_samples,
    table_samples,
    words_of_file,
    words_of_vocabulary,
)
from llmzip.lab.trials import Outcome, Trial, row_head
from llmzip.lm.loaded import LoadedModel
from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens
from tests.lab_study import logits_by_hand, opened_study, texts_of, tiny_loaded_model
from tests.tiny_models import ARCHITECTURES, TEXT

# Texts


@pytest.fixture(scope="module")
def tokens(tiny_model: Callable[..., Path]) -> Tokens:
    return Tokens.load(tiny_model("llama"))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return path


def spans(samples: list[Sample], tokens: Tokens) -> list[tuple[int, bytes]]:
    found = [(int(s.name.split()[-1].replace(",", "")), tokens.bytes_of(s.ids)) for s in samples]
    return sorted(found)


def test_natural_texts_are_passages_that_do_not_overlap(book: Path, tokens: Tokens) -> None:
    samples = natural_samples([book], tokens, count=8, num_tokens=40, seed=0)
    end = 0
    for start, data in spans(samples, tokens):
        assert TEXT.encode()[start : start + len(data)] == data and start >= end
        assert start == 0 or TEXT[start - 1] in " \n"
        end = start + len(data)
    assert [s.index for s in samples] == list(range(8)) and {len(s.ids) for s in samples} == {40}
    again = natural_samples([book], tokens, count=8, num_tokens=40, seed=0)
    other = natural_samples([book], tokens, count=8, num_tokens=40, seed=1)
    assert again == samples != other


def test_natural_texts_from_files_of_any_bytes(tmp_path: Path, tokens: Tokens) -> None:
    path = tmp_path / "x"
    path.write_bytes(TEXT[:300].encode() + bytes(range(256)) + "äöü€😀".encode() * 60)
    samples = natural_samples([path], tokens, count=3, num_tokens=50, seed=0)
    assert all(len(sample.ids) == 50 for sample in samples)


def test_files_that_are_too_short(book: Path, tokens: Tokens) -> None:
    with pytest.raises(InputError, match="passages of 500 tokens, 3 are needed"):
        natural_samples([book], tokens, count=3, num_tokens=500, seed=0)
    with pytest.raises(InputError, match="cannot read"):
        natural_samples([book.parent / "none"], tokens, count=1, num_tokens=5, seed=0)


def test_random_texts_are_words_of_the_list(tmp_path: Path, tokens: Tokens) -> None:
    path = tmp_path / "words.txt"
    path.write_text("".join(f"w{number} 0.1 0.2\n" for number in range(60)) + "\n w3\n")
    words = words_of_file(path)
    assert words == [f"w{number}" for number in range(60)]
    samples = random_samples(words, tokens, count=3, num_tokens=30, seed=5)
    assert samples == random_samples(words, tokens, count=3, num_tokens=30, seed=5)
    assert len({sample.ids for sample in samples}) == 3
    for sample in samples:
        drawn = tokens.bytes_of(sample.ids).decode().split(" ")
        assert len(sample.ids) == 30 and set(drawn[:-1]) <= set(words)
    with pytest.raises(InputError, match="too few"):
        random_samples(words[:49], tokens, count=1, num_tokens=30, seed=5)


def test_words_of_a_vocabulary() -> None:
    class Whole:
        meanings = [f" word{chr(97 + i % 26)}{chr(97 + i // 26)}".encode() for i in range(60)]
        meanings += [b"x", b" The", b" \xc3\xa4rger", None, b" a"]

    words = words_of_vocabulary(Whole())  # type: ignore[arg-type]
    assert len(words) == 60 and words[0] == "wordaa"


def test_small_vocabularies_get_syllables(tokens: Tokens) -> None:
    words = words_of_vocabulary(tokens)
    assert len(words) == len(set(words)) >= 100 and all(word.isalpha() for word in words)


def test_texts_of_a_table(tmp_path: Path, tokens: Tokens) -> None:
    path = tmp_path / "t.csv"
    rows = [
        "short",
        f'"{TEXT[:200]}, with ""quotes""\nand lines"',
        TEXT[200:400].replace("\n", " "),
    ]
    path.write_text("id,text\n" + "".join(f"{i},{text if i == 1 else chr(34) + text + chr(34)}\n"
                                          for i, text in enumerate(rows)))  # fmt: skip
    samples = table_samples(path, tokens, count=2, num_tokens=100)
    assert [sample.name for sample in samples] == ["t.csv row 2", "t.csv row 3"]
    assert tokens.bytes_of(samples[0].ids) == TEXT.encode()[: len(tokens.bytes_of(samples[0].ids))]
    with pytest.raises(InputError, match="has 2 texts"):
        table_samples(path, tokens, count=3, num_tokens=100)
    path.write_text("id,words\n1,a\n")
    with pytest.raises(InputError, match="no column named text"):
        table_samples(path, tokens, count=1, num_tokens=1)


# Recipes


def test_the_papers_optimiser_is_adamw() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, 40, generator=generator)
    theirs = torch.nn.Parameter(start.clone())
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.9), weight_decay=0.01)
    ours, optimiser = start, AdamW.empty(40, torch.device("cpu"), rate=0.01)
    for _ in range(30):
        gradient = torch.randn(1, 40, generator=generator)
        theirs.grad = gradient.clone()
        reference.step()
        ours = optimiser.move(ours, gradient)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours, start, atol=0.01)


@pytest.mark.parametrize("recipe", [Recipe(), paper_recipe()], ids=["llmzip", "paper"])
def test_paths_together_are_paths_alone(lm: FrozenLM, recipe: Recipe) -> None:
    """Also of runs that have come unlike ways before."""
    generator = torch.Generator().manual_seed(0)
    optimisers = [recipe.optimiser(lm, 40) for _ in range(3)]
    points = [torch.randn(1, 40, generator=generator) for _ in optimisers]
    for row, optimiser in enumerate(optimisers):
        for _ in range(2 * row):
            points[row] = optimiser.move(points[row], torch.randn(1, 40, generator=generator))
    gradients = torch.randn(5, 3, 40, generator=generator)
    together, point = optimisers[0].with_others(optimisers[1:]), torch.cat(points)
    for step, gradient in enumerate(gradients):
        point = together.move(point, gradient)
        if step == 2:  # a run leaves, and goes on alone
            optimisers_after = [together.row(row) for row in range(3)]
            together = optimisers_after[0].with_others(optimisers_after[1:])
    for row, optimiser in enumerate(optimisers):
        alone = points[row]
        for gradient in gradients:
            alone = optimiser.move(alone, gradient[row : row + 1])
        assert torch.allclose(point[row], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"max_steps": 0}, {"patience": 0}, {"until": 0.0}, {"until": 1.1}, {"min_margin": -1.0},
     {"temperature": 0.0}, {"learning_rate": math.nan}],
)  # fmt: skip
def test_recipes_that_are_none(changes: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        Recipe(**changes)  # type: ignore[arg-type]


def test_the_papers_recipe() -> None:
    recipe = paper_recipe()
    assert (recipe.max_steps, recipe.learning_rate, recipe.temperature) == (5000, 0.01, 1.0)
    assert recipe.margin_goal == math.inf and recipe.min_margin == 0.0


# Cramming


@pytest.fixture(scope="module", params=ARCHITECTURES)
def loaded(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> LoadedModel:
    return tiny_loaded_model(tiny_model, request.param)


def runner(loaded: LoadedModel, recipe: Recipe, **more: object) -> TrialRunner:
    return TrialRunner(loaded.lm, loaded.decode_lm, recipe, start_id=loaded.start_id, **more)  # type: ignore[arg-type]


def trials_for(loaded: LoadedModel, *lengths: int, num_mem: int = 1) -> list[Trial]:
    return [
        Trial(sample=sample, num_tokens=length, num_mem=num_mem)
        for sample in texts_of(loaded, count=3, num_tokens=40)
        for length in lengths
    ]


RECIPES = [Recipe(max_steps=50, patience=30), paper_recipe(max_steps=40, patience=40)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_what_is_reported_was_measured(loaded: LoadedModel, recipe: Recipe) -> None:
    """Margins and bits are those of the vectors that are handed out, first token included."""
    weights = [w.clone() for w in (loaded.lm._backend.embedding, loaded.lm._backend.head)]
    seen: dict[tuple[int, int], list[tuple[int, torch.Tensor]]] = {}

    def note(runs: list[Run]) -> None:
        for run in runs:
            key = run.trial.sample.index, run.trial.num_tokens
            seen.setdefault(key, []).append((run.step, (run.margins > 0).clone()))  # type: ignore[operator]

    outcomes = list(runner(loaded, recipe, on_step=note).run(trials_for(loaded, 4, 16)))
    assert len(outcomes) == 6
    for outcome in outcomes:
        num_tokens = outcome.trial.num_tokens
        key = outcome.trial.sample.index, num_tokens
        assert [step for step, _ in seen[key]] == list(range(outcome.steps + 1))
        if loaded.lm is loaded.decode_lm:
            right = {step: int(found.sum()) for step, found in seen[key]}
            assert outcome.tokens_right == right[outcome.best_step] == max(right.values())
        check_by_hand(loaded, outcome)
    assert all(
        torch.equal(*pair)
        for pair in zip(
            weights, (loaded.lm._backend.embedding, loaded.lm._backend.head), strict=True
        )
    )


def check_by_hand(loaded: LoadedModel, outcome: Outcome) -> None:
    """Logits from one plain pass over [start | mem | text]."""
    ids, start = outcome.trial.ids, [] if loaded.start_id is None else [loaded.start_id]
    logits = logits_by_hand(loaded, outcome.mem, ids[:-1])
    bits = -torch.log_softmax(logits, dim=1)[range(len(ids)), list(ids)] / math.log(2)
    assert torch.allclose(bits, outcome.bits, atol=1e-3)
    assert int((logits.argmax(dim=1) == torch.tensor(ids)).sum()) == outcome.tokens_right
    without = plain_text(loaded.decode_lm, ids, start=start)
    assert outcome.info_gain_bits == pytest.approx(float(without.bits.sum() - bits.sum()), abs=1e-2)
    assert outcome.token_gain == outcome.tokens_right - int(without.right.sum())


def test_plain_text_is_the_models_own_view(loaded: LoadedModel) -> None:
    ids = list(texts_of(loaded, count=1, num_tokens=12)[0].ids)
    start = [] if loaded.start_id is None else [loaded.start_id]
    found = plain_text(loaded.decode_lm, ids, start=start)
    embeds = loaded.decode_lm.embed(torch.tensor([*start, *ids]))[None]
    live = torch.ones(embeds.shape[:2], dtype=torch.bool)
    hidden, _ = loaded.decode_lm.extend(loaded.decode_lm.empty(1), embeds, live)
    logits = loaded.decode_lm.logits(hidden[0])
    predicted = ids if start else ids[1:]
    rows = logits[: len(predicted)]
    bits = -torch.log_softmax(rows, dim=1)[range(len(predicted)), predicted] / math.log(2)
    assert torch.allclose(found.bits[-len(predicted) :], bits, atol=1e-3)
    if not start:  # nothing stands before the first token
        assert float(found.bits[0]) == pytest.approx(math.log2(loaded.decode_lm.vocab_size))
        assert not bool(found.right[0])


def test_a_run_ends_when_it_is_exact_and_decodes(loaded: LoadedModel) -> None:
    recipe = Recipe(max_steps=200, patience=200)
    outcomes = list(runner(loaded, recipe).run(trials_for(loaded, 4)))
    decoded = decode_greedily(loaded.decode_lm, outcomes, start_id=loaded.start_id, batch=2)
    exact = 0
    for outcome, greedy in zip(outcomes, decoded, strict=True):
        if outcome.min_margin >= recipe.min_margin:
            exact += 1
            assert greedy.first_wrong is None and greedy.num_right == 4
            assert torch.allclose(greedy.margins, outcome.margins, atol=1e-2)
    assert exact >= 2


def test_greedy_decoding_goes_on_from_its_own_mistakes(loaded: LoadedModel) -> None:
    recipe = Recipe(max_steps=3, patience=3)
    (outcome,) = runner(loaded, recipe).run(trials_for(loaded, 20)[:1])
    (greedy,) = decode_greedily(loaded.decode_lm, [outcome], start_id=loaded.start_id)
    assert greedy.first_wrong is not None
    # Up to the first mistake it is what teacher forcing says.
    right = (outcome.margins > 0).tolist()
    assert right.index(False) == greedy.first_wrong
    assert greedy.first_wrong <= greedy.num_right < 20


def test_what_cannot_be_held_is_given_up(loaded: LoadedModel) -> None:
    """A text of 40 tokens is far too long; one of 4 is not given up."""
    recipe = Recipe(max_steps=60, patience=60)
    hasty = replace(recipe, gives_up=True)
    long, short = trials_for(loaded, 40)[:1], trials_for(loaded, 4)[:1]
    ((patient,), (given_up,)) = (runner(loaded, each).run(long) for each in (recipe, hasty))
    assert given_up.steps < patient.steps == 60
    ((one,), (other,)) = (runner(loaded, each).run(short) for each in (recipe, hasty))
    assert one.steps == other.steps and torch.equal(one.mem, other.mem)


def test_the_loss_for_entropy_leaves_less_of_it(loaded: LoadedModel) -> None:
    recipe = Recipe(max_steps=60, patience=60)
    trials = trials_for(loaded, 4)
    left = [
        sum(float(outcome.bits.sum()) for outcome in runner(loaded, each).run(trials))
        for each in (recipe, recipe.for_entropy())
    ]
    assert left[1] < 0.7 * left[0]
    paper = paper_recipe()
    assert paper.for_entropy() is paper


def test_the_vectors_kept_have_the_margin(loaded: LoadedModel) -> None:
    """If any of the run's had, however right others were."""
    if loaded.lm is not loaded.decode_lm:
        pytest.skip("the margin is asked for in the optimiser's numerics")
    for outcome in runner(loaded, Recipe(max_steps=100, patience=100, min_margin=0.5)).run(
        trials_for(loaded, 4, 8)
    ):
        assert outcome.steps == 100 or outcome.min_margin >= 0.49


def test_batches_change_nothing_but_noise(loaded: LoadedModel) -> None:
    if loaded.lm is not loaded.decode_lm:
        pytest.skip("bf16 differs between batches")
    recipe = Recipe(max_steps=6, patience=6)
    trials = trials_for(loaded, 5, 9)
    alone = {id(o.trial): o for o in runner(loaded, recipe, batch_tokens=1).run(trials)}
    together = {id(o.trial): o for o in runner(loaded, recipe).run(trials)}
    for key, outcome in alone.items():
        assert together[key].tokens_right == pytest.approx(outcome.tokens_right, abs=1)
        assert together[key].info_gain_bits == pytest.approx(outcome.info_gain_bits, abs=2.0)


def test_a_text_too_long_for_the_batch_does_not_widen_it(loaded: LoadedModel) -> None:
    """On a CPU, whose memory belongs to everyone."""
    narrow = runner(loaded, Recipe(max_steps=1, patience=1), batch_tokens=5)
    list(narrow.run(trials_for(loaded, 9)))
    assert narrow.batch_tokens == 5


def test_vectors_of_different_numbers_do_not_share_a_batch(loaded: LoadedModel) -> None:
    recipe = Recipe(max_steps=2, patience=2)
    trials = [*trials_for(loaded, 4), *trials_for(loaded, 4, num_mem=2)]
    outcomes = list(runner(loaded, recipe).run(trials))
    assert sorted(len(outcome.mem) for outcome in outcomes) == [1, 1, 1, 2, 2, 2]


def test_warm_vectors_are_where_a_run_begins(lm: FrozenLM, ids: tuple[int, ...]) -> None:
    sample = Sample(source="natural", index=0, name="", ids=ids)
    warm = torch.full((1, lm.dim), 0.5)
    recipe = Recipe(max_steps=1, patience=1)
    points: list[torch.Tensor] = []
    stopped = TrialRunner(
        lm, lm, recipe, start_id=None, on_step=lambda runs: points.append(runs[0].mem)
    )
    list(stopped.run([Trial(sample=sample, num_tokens=4, warm_mem=warm)]))
    assert torch.equal(points[0], warm) and not torch.equal(points[1], warm)
    assert torch.equal(warm, torch.full((1, lm.dim), 0.5))


def test_seeds_and_texts_have_starts_of_their_own(lm: FrozenLM) -> None:
    for recipe in RECIPES:
        starts = [recipe.start(lm, 2, seed) for seed in ("0 natural 0", "0 natural 1")]
        assert starts[0].shape == (2, lm.dim)
        assert torch.equal(starts[0], recipe.start(lm, 2, "0 natural 0"))
        assert not torch.equal(*starts)


def test_runs_can_be_stopped(lm: FrozenLM, ids: tuple[int, ...]) -> None:
    cancel = threading.Event()
    sample = Sample(source="natural", index=0, name="", ids=ids)

    def stop(runs: object) -> None:
        cancel.set()

    stopped = TrialRunner(lm, lm, Recipe(), start_id=None, on_step=stop, cancel=cancel)
    with pytest.raises(Interrupted):
        list(stopped.run([Trial(sample=sample, num_tokens=20)]))


def test_an_exact_run_at_a_fixed_length_counts(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    loaded = tiny_loaded_model(tiny_model, "llama")
    samples = texts_of(loaded, count=2, num_tokens=40)

    def row(purpose: str, text: int, num_tokens: int, is_exact: bool) -> Row:
        trial = Trial(sample=samples[text], num_tokens=num_tokens)
        return {**row_head(purpose, "tiny", trial, loaded.decode_lm.dim), "exact": is_exact}

    with opened_study(loaded, tmp_path / "run", Recipe()) as study:
        study.folder.add(
            [
                {**row(purpose, text, num_tokens, is_exact), "model": study.model}
                for purpose, text, num_tokens, is_exact in [
                    ("capacity", 0, 20, True),
                    ("bin", 0, 24, True),
                    ("bin", 0, 32, True),
                    ("bin", 0, 40, False),
                    ("capacity", 1, 30, True),
                    ("bin", 1, 24, True),
                ]
            ]  # fmt: skip
        )
        take_exact_bins(study, samples, num_mem=1)
        take_exact_bins(study, samples, num_mem=1)
    rows = read_rows(tmp_path / "run")
    found = {row["text"]: row["num_tokens"] for row in rows if row["purpose"] == "capacity"}
    assert found == {0: 32, 1: 30}
    assert len(rows) == 6


@pytest.mark.parametrize(
    ("share_held", "lengths"),
    [
        ({32: 0.97, 40: 0.93, 48: 0.8}, [24, 32, 40, 48]),  # till texts have more than is gained
        ({32: 0.85}, [24, 32]),
        ({}, [24, 32, 40, 48]),  # three lengths beyond, and no more
    ],
)
def test_fixed_lengths_go_on_until_vectors_are_full(
    tiny_model: Callable[..., Path], tmp_path: Path, share_held: dict[int, float],
    lengths: list[int],
) -> None:  # fmt: skip
    loaded = tiny_loaded_model(tiny_model, "llama")
    samples = texts_of(loaded, count=2, num_tokens=70)
    with opened_study(loaded, tmp_path / "run", Recipe()) as study:

        def row(purpose: str, trial: Trial, is_exact: bool) -> Row:
            head = row_head(purpose, study.model, trial, loaded.decode_lm.dim)
            share = share_held.get(trial.num_tokens, 1.0)
            gain = {"plain_bits": 200.0, "info_gain_bits": 200.0 * share}
            return {**head, **gain, "exact": is_exact, "accuracy": 1.0 if is_exact else 0.9}

        study.folder.add(row("capacity", Trial(sample=s, num_tokens=20), True) for s in samples)
        study.cram = lambda trials, **more: iter(trials)  # type: ignore
        study.rows_of = lambda purpose, trials, **more: [  # type: ignore
            row(purpose, trial, trial.num_tokens < 32) for trial in trials
        ]
        run_bins(study, samples, num_mem=1)
    bins = [row for row in read_rows(tmp_path / "run") if row["purpose"] == "bin"]
    assert [row["num_tokens"] for row in bins] == [n for n in lengths for _ in samples]
