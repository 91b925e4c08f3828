"""The studies of capacity, each from settings to a finished folder.

Owns what each one measures and which tables it ends with. Knows no terminal.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from llmzip.config import BITS, Preset
from llmzip.errors import SettingsError
from llmzip.lab.capacity import measure_capacity, search_exact
from llmzip.lab.crammer import Trial
from llmzip.lab.entropy import (
    chunk_lengths,
    entropy_points,
    entropy_summary,
    measure_entropy,
    threshold_of,
)
from llmzip.lab.figures_bits import RatePoint, draw_entropy, draw_rate
from llmzip.lab.figures_capacity import draw_capacity, draw_scaling
from llmzip.lab.figures_models import Utilisation, draw_lengths, draw_utilisation
from llmzip.lab.length_search import front_tokens
from llmzip.lab.measures import CapacityFigures, Spread, bound_tokens, capacity_figures
from llmzip.lab.published import published_capacities, published_for, published_scaling
from llmzip.lab.rate import measure_rate, rate_summary
from llmzip.lab.studies import (
    Lab,
    LabSettings,
    expected_tokens,
    finish,
    first_bits,
    opened_lab,
)
from llmzip.lab.study import Study, Tell
from llmzip.lab.tables import (
    Table,
    capacity_table,
    entropy_table,
    rate_table,
    scaling_table,
    utilisation_table,
)
from llmzip.lab.texts import Sample
from llmzip.lab.view import token_view

Summary = dict[str, Any]


def quiet(what: str, done: int, total: int) -> None:
    """Tell nobody how far it is."""


def capacity(
    settings: LabSettings, *, tell: Tell = quiet, cancel: threading.Event | None = None
) -> Summary:
    """Table 1: how much each model's vectors hold, exactly and at 99 %, and what they gain."""
    with opened_lab("capacity", settings, tell=tell, cancel=cancel) as lab:
        views: list[dict[str, Any]] = []
        for study in lab.studies():
            for samples in _measure(lab, study, with_bins=True):
                views.append(_view(study, samples[0]))
        figures = capacity_figures(lab.folder.rows)
        summary = _summary("capacity", figures, [capacity_table(figures)], tokens=views)
        published = [other for study in settings.models for other in published_for(study)]
        return finish(lab, summary, lambda path: draw_capacity(path, figures, published))


def lengths(
    settings: LabSettings, *, tell: Tell = quiet, cancel: threading.Event | None = None
) -> Summary:
    """Figure 1: the longest exact text of each model."""
    with opened_lab("lengths", settings, tell=tell, cancel=cancel) as lab:
        for study in lab.studies():
            _measure(lab, study, with_bins=False)
        figures = capacity_figures(lab.folder.rows)
        summary = _summary("lengths", figures, [capacity_table(figures)])
        published = published_capacities(measure="at 99", source="PG19")
        return finish(lab, summary, lambda path: draw_lengths(path, figures, published))


def scaling(
    settings: LabSettings, *, tell: Tell = quiet, cancel: threading.Event | None = None
) -> Summary:
    """Figure 4: capacity against the number of vectors, beside the ideal line."""
    with opened_lab("scaling", settings, tell=tell, cancel=cancel) as lab:
        for study in lab.studies():
            _measure(lab, study, with_bins=False)
        figures = capacity_figures(lab.folder.rows)
        tables = [capacity_table(figures), scaling_table(figures)]
        summary = _summary("scaling", figures, tables)
        return finish(lab, summary, lambda path: draw_scaling(path, figures, published_scaling()))


def utilisation(
    settings: LabSettings, *, tell: Tell = quiet, cancel: threading.Event | None = None
) -> Summary:
    """Figure 5: what vectors hold, of what so many bits could name at most."""
    with opened_lab("utilisation", settings, tell=tell, cancel=cancel) as lab:
        sizes: dict[str, int] = {}
        for study in lab.studies():
            sizes[study.model] = study.loaded.tokens.vocab_size
            _measure(lab, study, with_bins=True)
        figures = capacity_figures(lab.folder.rows)
        bounds = [
            {
                "model": each.model,
                "source": each.source,
                "num_mem": each.num_mem,
                "bound_tokens": bound_tokens(each.num_mem, each.mem_dim, 16, sizes[each.model]),
                "exact_tokens": each.exact_tokens.mean,
                "token_gain": each.token_gain_above.mean,
                "bound_bits": 16 * each.num_mem * each.mem_dim,
                "exact_bits": each.exact_bits.mean,
            }
            for each in figures
        ]
        tables = [capacity_table(figures), utilisation_table(bounds)]
        summary = _summary("utilisation", figures, tables, bounds=bounds)
        bars = [*map(_own_bar, bounds), *_published_bars()]
        return finish(lab, summary, lambda path: draw_utilisation(path, bars))


def entropy(
    settings: LabSettings, *, tell: Tell = quiet, cancel: threading.Event | None = None
) -> Summary:
    """Figure 3: cross-entropy before and after cramming, the threshold and the line beyond it."""
    with opened_lab("entropy", settings, tell=tell, cancel=cancel) as lab:
        for study in lab.studies():
            num_mem = settings.num_mem[0]
            expected = num_mem * expected_tokens(study.loaded)
            for samples in settings.texts.samples(study.loaded, num_mem=num_mem, seed=study.seed):
                most = min(len(sample.ids) for sample in samples)
                measure_entropy(
                    study, samples, lengths=chunk_lengths(expected, most), num_mem=num_mem
                )
        fits = entropy_summary(lab.folder.rows)
        summary = _summary("entropy", [], [entropy_table(fits)], fits=fits)
        points, threshold = entropy_points(lab.folder.rows), threshold_of(lab.folder.rows)
        return finish(lab, summary, lambda path: draw_entropy(path, points, threshold))


def rate(
    settings: LabSettings,
    *,
    bits: Sequence[int] = (16, 8, 6, 4, 3, 2),
    preset: Preset = "fast",
    tell: Tell = quiet,
    cancel: threading.Event | None = None,
) -> Summary:
    """Bits per dimension against what vectors hold exactly, and what a bit of text costs."""
    if not set(bits) <= set(BITS):
        raise SettingsError("--bits are numbers from 1 to 8, or 16")
    more = {"bits": list(bits), "preset": preset}
    with opened_lab("rate", settings, tell=tell, cancel=cancel, more=more) as lab:
        for study in lab.studies():
            num_mem = settings.num_mem[0]
            for samples in settings.texts.samples(study.loaded, num_mem=num_mem, seed=study.seed):
                measure_rate(
                    study, samples, bits=bits, num_mem=num_mem, preset=preset,
                    first_bits=first_bits(study.loaded, num_mem),
                )  # fmt: skip
        curve = rate_summary(lab.folder.rows)
        summary = _summary("rate", [], [rate_table(curve)], curve=curve)
        points = [
            RatePoint(
                bits=each["coded_bits_a_dimension"],
                tokens=Spread.in_line(each, "tokens"),
                exact_bits=Spread.in_line(each, "exact_bits"),
                stored_bits_an_information_bit=each["stored_bits_an_information_bit"],
            )
            for each in curve
        ]
        return finish(lab, summary, lambda path: draw_rate(path, points))


def _measure(lab: Lab, study: Study, *, with_bins: bool) -> list[list[Sample]]:
    """Capacity for every number of vectors and source. Returns the samples of each source."""
    settings = lab.settings
    measure = measure_capacity if with_bins else search_exact
    sources = settings.texts.samples(study.loaded, num_mem=max(settings.num_mem), seed=study.seed)
    for samples in sources:
        for num_mem in settings.num_mem:
            first = first_bits(study.loaded, num_mem)
            measure(study, samples, num_mem=num_mem, first_bits=first)
    return sources


def _view(study: Study, sample: Sample) -> dict[str, Any]:
    """What one vector makes of the front of a text, token by token."""
    ids = sample.ids[: study.most_tokens]
    num_tokens = front_tokens(study.plain_bits(ids), first_bits(study.loaded, 1))
    trial = Trial(sample=sample, num_tokens=num_tokens, seed=study.seed)
    title = f"{study.model}: {sample.name}, {num_tokens} tokens in one vector"
    return token_view(study, trial, title=title)


def _own_bar(bound: dict[str, Any]) -> Utilisation:
    return Utilisation(
        model=bound["model"], source=bound["source"], bound_tokens=bound["bound_tokens"],
        gain_tokens=bound["exact_tokens"],
    )  # fmt: skip


def _published_bars() -> list[Utilisation]:
    return [
        Utilisation(
            model=each.model, source=each.source, gain_tokens=each.token_gain, is_published=True,
            bound_tokens=each.bound_tokens,
        )
        for each in published_capacities(measure="at 99", source="PG19")
        if each.token_gain is not None
    ]  # fmt: skip


def _summary(
    study: str, figures: Sequence[CapacityFigures], tables: Sequence[Table], **more: Any
) -> Summary:
    found = {"figures": [each.to_dict() for each in figures]} if figures else {}
    return {"study": study, "tables": list(tables), **found, **more}
