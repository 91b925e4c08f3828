"""The studies, each from settings to a finished folder.

Owns what each study measures by default, which tables it ends with and which picture it draws.
Knows nothing of terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmzip.codecs.cram.presets import held_share
from llmzip.config import BITS, Preset
from llmzip.errors import SettingsError
from llmzip.lab import figures_bars, figures_curves, published, tables
from llmzip.lab.capacity import measure_capacity, token_view
from llmzip.lab.folder import Settings, read_bytes
from llmzip.lab.geometry import geometry_summary, measure_geometry
from llmzip.lab.greedy import MARGINS, greedy_summary, measure_greedy
from llmzip.lab.measures import CapacityFigures, bound_tokens, capacity_figures, grouped
from llmzip.lab.paths import read_paths
from llmzip.lab.plan import BookPlan, PlanSettings, plan_book
from llmzip.lab.rate import (
    chunk_lengths,
    entropy_points,
    entropy_summary,
    measure_entropy,
    measure_rate,
    rate_figures,
    threshold_of,
)
from llmzip.lab.signs import search_bits
from llmzip.lab.study import Lab, LabSettings, Study, Summary, Watch, open_lab
from llmzip.lab.texts import Sample
from llmzip.store.vectors import RAW_BITS

if TYPE_CHECKING:
    from typing import Unpack

_LOAD = 0.7  # of what vectors are expected to hold, where every run is to end with all tokens right


def capacity(
    settings: LabSettings,
    *,
    bits: int = RAW_BITS,
    preset: Preset = "fast",
    **watch: Unpack[Watch],
) -> Summary:
    """Table 1: how much each model's vectors hold, exactly and at 99 %, and what they gain. Of
    vectors of fewer than 16 bits a dimension: exactly only."""
    with open_lab("capacity", settings, own=_own_bits(bits, preset), **watch) as lab:
        views: list[dict[str, Any]] = []

        def see(study: Study, texts: Sequence[Sample]) -> None:
            if bits == RAW_BITS:
                views.append(token_view(study, texts[0]))

        measure = measure_capacity if bits == RAW_BITS else _exact(bits, preset)
        figures = _capacities(lab, measure, see=see)
        others = [each for model in settings.models for each in published.published_for(model)]
        return lab.finish(
            [tables.capacity_table(figures)], figures_bars.draw_capacity, figures, others,
            figures=[each.to_dict() for each in figures], tokens=views,
        )  # fmt: skip


def lengths(settings: LabSettings, **watch: Unpack[Watch]) -> Summary:
    """Figure 1: the longest exact text of each model."""
    with open_lab("lengths", settings, **watch) as lab:
        figures = _capacities(lab, _exact(RAW_BITS))
        others = published.published_capacities(measure="at 99", source="PG19")
        return lab.finish(
            [tables.capacity_table(figures)], figures_bars.draw_lengths, figures, others,
            figures=[each.to_dict() for each in figures],
        )  # fmt: skip


def scaling(
    settings: LabSettings,
    *,
    bits: int = RAW_BITS,
    preset: Preset = "fast",
    **watch: Unpack[Watch],
) -> Summary:
    """Figure 4: capacity against the number of vectors, beside the ideal line."""
    with open_lab("scaling", settings, own=_own_bits(bits, preset), **watch) as lab:
        figures = _capacities(lab, _exact(bits, preset))
        made = [tables.capacity_table(figures), tables.scaling_table(figures)]
        return lab.finish(
            made, figures_curves.draw_scaling, figures, published.published_scaling(),
            figures=[each.to_dict() for each in figures],
        )  # fmt: skip


def utilisation(settings: LabSettings, **watch: Unpack[Watch]) -> Summary:
    """Figure 5: what vectors hold, of what so many bits could name at most."""
    with open_lab("utilisation", settings, **watch) as lab:
        sizes: dict[str, int] = {}
        figures = _capacities(
            lab, measure_capacity,
            see=lambda study, _: sizes.update({study.model: study.loaded.tokens.vocab_size}),
        )  # fmt: skip
        bounds = [
            {
                "model": each.model, "source": each.source, "num_mem": each.num_mem,
                "bound_tokens": bound_tokens(each.num_mem, each.mem_dim, 16, sizes[each.model]),
                "exact_tokens": each.exact_tokens.mean, "token_gain": each.token_gain_above.mean,
                "bound_bits": 16 * each.num_mem * each.mem_dim, "exact_bits": each.exact_bits.mean,
            }
            for each in figures
        ]  # fmt: skip
        made = [tables.capacity_table(figures), tables.utilisation_table(bounds)]
        return lab.finish(
            made, figures_bars.draw_utilisation, _utilisation_bars(bounds),
            figures=[each.to_dict() for each in figures], bounds=bounds,
        )  # fmt: skip


def entropy(settings: LabSettings, **watch: Unpack[Watch]) -> Summary:
    """Figure 3: cross-entropy before and after cramming, the threshold and the line beyond it."""
    with open_lab("entropy", settings, **watch) as lab:
        num_mem = settings.num_mem[0]
        for study in lab.studies():
            for samples in study.samples(settings.texts, num_mem=num_mem):
                shortest = min(len(sample.ids) for sample in samples)
                tried = chunk_lengths(num_mem * study.expected_tokens, shortest)
                measure_entropy(study, samples, lengths=tried, num_mem=num_mem)
        rows = lab.folder.rows
        fits, points, threshold = entropy_summary(rows), entropy_points(rows), threshold_of(rows)
        made = [tables.entropy_table(fits)]
        return lab.finish(made, figures_curves.draw_entropy, points, threshold, fits=fits)


def rate(
    settings: LabSettings,
    *,
    bits: Sequence[int] = (16, 8, 4, 3, 2, 1),
    preset: Preset = "fast",
    **watch: Unpack[Watch],
) -> Summary:
    """Stored bits of vectors against the bits that they hold exactly."""
    if not set(bits) <= set(BITS):
        raise SettingsError("--bits are numbers from 1 to 8, or 16")
    own = {"bits": list(bits), "preset": preset}
    with open_lab("rate", settings, own=own, **watch) as lab:
        for study in lab.studies():
            for samples in study.samples(settings.texts, num_mem=max(settings.num_mem)):
                for num_mem in settings.num_mem:
                    measure_rate(study, samples, bits=bits, num_mem=num_mem, preset=preset)
        figures = rate_figures(lab.folder.rows)
        curve = [each.to_dict() for each in figures]
        made = [tables.rate_table(figures)]
        return lab.finish(made, figures_curves.draw_rate, figures, curve=curve)


def greedy(settings: LabSettings, **watch: Unpack[Watch]) -> Summary:
    """Right when teacher-forced against right when decoded, and what a margin gains."""
    own = {"margins": list(MARGINS)}
    with open_lab("greedy", settings, own=own, **watch) as lab:
        num_mem = settings.num_mem[0]
        for study in lab.studies():
            for samples, num_tokens in _easy_lengths(study, settings, num_mem):
                measure_greedy(study, samples, num_tokens=num_tokens, num_mem=num_mem)
        lines = greedy_summary(lab.folder.rows)
        # A picture shows one model, source and number of vectors: the first.
        groups = grouped(lab.folder.rows, "model", "source", "num_mem")
        points = figures_bars.greedy_points(next(iter(groups.values()), []))
        made = [tables.greedy_table(lines)]
        smallest = [each for each in published.published_margins() if each.model == "SmolLM2-1.7B"]
        others = [*published.published_brittleness(), *smallest]
        return lab.finish(made, figures_bars.draw_greedy, points, others, settings=lines)


def geometry(settings: LabSettings, **watch: Unpack[Watch]) -> Summary:
    """Paths of the optimiser, solutions of one text from several starts, and their neighbours."""
    if settings.num_mem != (1,):
        raise SettingsError("the study of geometry is of one vector: leave --mem out")
    with open_lab("geometry", settings, **watch) as lab:
        for study in lab.studies():
            for samples, num_tokens in _easy_lengths(study, settings, 1):
                measure_geometry(study, samples, num_tokens=num_tokens)
        by_model = geometry_summary(lab.folder.rows)
        made = [tables.geometry_table(by_model)]
        return lab.finish(made, _draw_geometry, by_model, models=by_model)


def plan(
    settings: LabSettings,
    *,
    bits: int = 4,
    search: bool = False,
    **watch: Unpack[Watch],
) -> Summary:
    """Vectors, bytes and time for a book, from a small part of it. search: what a vector holds is
    measured on the book, which takes many times as long; else it is estimated from the model's
    calibration."""
    if len(settings.texts.files) != 1 or settings.texts.use_random or settings.texts.table:
        raise SettingsError("a plan is for one file: name it, and no other texts")
    (book,) = settings.texts.files
    _check_bits(bits)
    data = read_bytes(book)
    plans: list[BookPlan] = []
    own = {"bits": bits, "search": search}
    with open_lab("plan", settings, own=own, **watch) as lab:
        for study in lab.studies():
            plan_settings = PlanSettings(
                chunk_tokens=study.expected_tokens,
                num_trials=settings.texts.count,
                gain_bits=() if search else (study.held_bits,),
                bits=bits,
                held_share=held_share(bits),
            )
            plans.append(plan_book(study, data, plan_settings))
        made = [tables.plan_table(each, search=search) for each in plans]
        return lab.finish(made, plans=[each.to_dict() for each in plans])


class _Measure(Protocol):
    """Measure samples of one source with so many vectors."""

    def __call__(self, study: Study, samples: Sequence[Sample], /, *, num_mem: int) -> None: ...


def _exact(bits: int, preset: Preset = "fast") -> _Measure:
    """The longest exact lengths, with vectors of so many bits a dimension."""
    return partial(search_bits, bits=bits, preset=preset)


def _own_bits(bits: int, preset: Preset) -> Settings:
    """What a folder records of them. Raises SettingsError."""
    _check_bits(bits)
    return {} if bits == RAW_BITS else {"bits": bits, "preset": preset}


def _check_bits(bits: int) -> None:
    if bits not in BITS:
        raise SettingsError("--bits is a number from 1 to 8, or 16")


def _capacities(
    lab: Lab,
    measure: _Measure,
    *,
    see: Callable[[Study, Sequence[Sample]], None] = lambda study, samples: None,
) -> list[CapacityFigures]:
    """Measure every model, source and number of vectors. see: called with each model and its
    samples of each source when all of them are measured."""
    for study in lab.studies():
        sources = study.samples(lab.settings.texts, num_mem=max(lab.settings.num_mem))
        for samples in sources:
            for num_mem in lab.settings.num_mem:
                measure(study, samples, num_mem=num_mem)
        for samples in sources:
            see(study, samples)
    return capacity_figures(lab.folder.rows)


def _easy_lengths(
    study: Study, settings: LabSettings, num_mem: int
) -> list[tuple[list[Sample], int]]:
    """Samples of each source, and how many of their tokens vectors hold without difficulty."""
    wanted = settings.texts.tokens or max(2, int(_LOAD * num_mem * study.expected_tokens))
    sources = study.samples(settings.texts, num_mem=num_mem)
    return [(samples, min(wanted, len(samples[0].ids))) for samples in sources]


def _utilisation_bars(bounds: Sequence[dict[str, Any]]) -> list[figures_bars.Utilisation]:
    own = [
        figures_bars.Utilisation(
            model=bound["model"], source=bound["source"], bound_tokens=bound["bound_tokens"],
            gain_tokens=bound["exact_tokens"],
        )
        for bound in bounds
    ]  # fmt: skip
    return own + [
        figures_bars.Utilisation(
            model=each.model, source=each.source, gain_tokens=each.token_gain, is_published=True,
            bound_tokens=each.bound_tokens,
        )
        for each in published.published_capacities(measure="at 99", source="PG19")
        if each.token_gain is not None
    ]  # fmt: skip


def _draw_geometry(folder: Path, by_model: dict[str, Any]) -> None:
    """The first text's paths; the curves of every model."""
    texts = read_paths(folder)[:1]
    paths = [figures_curves.SolutionPath(**run) for text in texts for run in text["runs"]]

    def curves(kind: str) -> list[figures_curves.Curve]:
        return [
            figures_curves.Curve(
                title=f"{model}, {title}",
                points=[(point["at"], point[measure]) for point in each[kind]],
            )
            for model, each in by_model.items()
            for title, measure in (("teacher-forced", "accuracy"), ("greedy", "greedy_accuracy"))
        ]

    shares = texts[0]["shown_variance"] if texts else None
    figures_curves.draw_geometry(
        folder, paths, curves("interpolation"), curves("neighbours"), shares
    )
