"""The studies of what vectors are like, each from settings to a finished folder.

Owns what each one measures and which tables it ends with. Knows no terminal.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmzip.codecs.cram.presets import held_share
from llmzip.config import BITS
from llmzip.errors import InputError, SettingsError
from llmzip.lab.figures_bits import draw_greedy, greedy_points
from llmzip.lab.figures_geometry import Curve, SolutionPath, draw_geometry
from llmzip.lab.folder import Row
from llmzip.lab.geometry import geometry_summary, measure_geometry
from llmzip.lab.greedy import MARGINS, greedy_table, measure_greedy
from llmzip.lab.measures import Spread
from llmzip.lab.paths import read_paths
from llmzip.lab.plan import BookPlan, plan_book
from llmzip.lab.published import published_brittleness, published_margins
from llmzip.lab.runs import Summary, quiet
from llmzip.lab.studies import (
    Lab,
    LabSettings,
    expected_tokens,
    finish,
    held_bits,
    opened_lab,
)
from llmzip.lab.study import Study, Tell
from llmzip.lab.tables import Table, table
from llmzip.lab.texts import Sample

_LOAD = 0.7  # of what vectors are expected to hold: every run is to end with all tokens right


def greedy(
    settings: LabSettings, *, tell: Tell = quiet, cancel: threading.Event | None = None
) -> Summary:
    """Right when teacher-forced against right when decoded, and what a margin buys."""
    more = {"margins": list(MARGINS)}
    with opened_lab("greedy", settings, tell=tell, cancel=cancel, more=more) as lab:
        num_mem = settings.num_mem[0]
        for study in lab.studies():
            for samples, num_tokens in _loaded(lab, study, num_mem):
                measure_greedy(study, samples, num_tokens=num_tokens, num_mem=num_mem)
        lines = greedy_table(lab.folder.rows)
        points = greedy_points(_first_kind(lab.folder.rows))
        summary = {"study": "greedy", "tables": [_greedy_table(lines)], "settings": lines}
        smallest = [each for each in published_margins() if each.model == "SmolLM2-1.7B"]
        published = [*published_brittleness(), *smallest]
        return finish(lab, summary, lambda path: draw_greedy(path, points, published))


def geometry(
    settings: LabSettings, *, tell: Tell = quiet, cancel: threading.Event | None = None
) -> Summary:
    """Paths of the optimiser, solutions of one text from several starts, and their neighbours."""
    if settings.num_mem != (1,):
        raise SettingsError("the study of geometry is of one vector: leave --mem out")
    with opened_lab("geometry", settings, tell=tell, cancel=cancel) as lab:
        for study in lab.studies():
            for samples, num_tokens in _loaded(lab, study, 1):
                measure_geometry(study, samples, num_tokens=num_tokens)
        by_model = geometry_summary(lab.folder.rows)
        tables = [_geometry_table(by_model)]
        summary = {"study": "geometry", "tables": tables, "models": by_model}
        return finish(lab, summary, lambda path: _draw_geometry(path, by_model))


def plan(
    settings: LabSettings,
    *,
    bits: int = 4,
    search: bool = False,
    tell: Tell = quiet,
    cancel: threading.Event | None = None,
) -> Summary:
    """Vectors, bytes and time for a book, from a small part of it. search: what a vector holds is
    measured on the book, which takes many times as long; else it is reckoned from the model's
    calibration."""
    if len(settings.texts.files) != 1 or settings.texts.use_random or settings.texts.table:
        raise SettingsError("a plan is for one file: name it, and no other texts")
    (book,) = settings.texts.files
    if bits not in BITS:
        raise SettingsError("--bits is a number from 1 to 8, or 16")
    try:
        data = book.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {book}: {error.strerror}") from error
    plans: list[BookPlan] = []
    with opened_lab(
        "plan", settings, tell=tell, cancel=cancel, more={"bits": bits, "search": search}
    ) as lab:
        for study in lab.studies():
            known = () if search else (held_bits(study.loaded),)
            found = plan_book(
                study, data, chunk_tokens=expected_tokens(study.loaded), gain_bits=known,
                num_trials=settings.texts.count, bits=bits, held_share=held_share(bits),
            )  # fmt: skip
            plans.append(found)
        summary = {
            "study": "plan",
            "tables": [_plan_table(each, search=search) for each in plans],
            "plans": [each.to_dict() for each in plans],
        }
        return finish(lab, summary, lambda path: None)


def _loaded(lab: Lab, study: Study, num_mem: int) -> list[tuple[list[Sample], int]]:
    """Samples of each source, and how many of their tokens vectors hold without much trouble."""
    texts = lab.settings.texts
    wanted = texts.tokens or max(2, int(_LOAD * num_mem * expected_tokens(study.loaded)))
    found = texts.samples(study.loaded, num_mem=num_mem, seed=study.seed)
    return [(samples, min(wanted, len(samples[0].ids))) for samples in found]


def _first_kind(rows: Sequence[Row]) -> list[Row]:
    """Of one model, source and number of vectors: what one picture can show."""
    kinds = [(row["model"], row["source"], row["num_mem"]) for row in rows]
    return [row for row, kind in zip(rows, kinds, strict=True) if kind == kinds[0]]


def _greedy_table(lines: Sequence[dict[str, Any]]) -> Table:
    columns = ("model", "source", "stopped at", "texts", "right, forced", "right, greedy",
               "texts exact", "token 1 wrong", "by token 2", "steps", "least margin")  # fmt: skip
    shares = ("accuracy", "greedy_accuracy", "exact_share", "first_wrong_share",
              "wrong_by_second_share")  # fmt: skip
    rows = [
        [
            each["model"], each["source"], each["setting"], each["texts"],
            *(f"{100 * each[name]:.1f} %" for name in shares), each["steps"], each["min_margin"],
        ]
        for each in lines
    ]  # fmt: skip
    return table("Teacher-forced against greedy", columns, rows)


def _geometry_table(by_model: dict[str, Any]) -> Table:
    columns = ("model", "texts", "solutions", "exact", "steps", "path over displacement",
               "components for 99 %", "distance over displacement", "cosine")  # fmt: skip
    names = ("steps", "length_over_displacement", "components_99", "distance_over_displacement",
             "cosine")  # fmt: skip
    rows = [
        [
            model, each["texts"], each["solutions"], f"{100 * each['exact_share']:.0f} %",
            *(Spread(**each[name]) for name in names),
        ]
        for model, each in by_model.items()
    ]  # fmt: skip
    return table("Solutions of one text from several starts", columns, rows)


def _draw_geometry(path: Path, by_model: dict[str, Any]) -> None:
    """The first text's paths; the curves of every model."""
    drawn = read_paths(path)[:1]
    paths = [
        SolutionPath(seed=line["seed"], steps=line["steps"], points=line["points"])
        for text in drawn
        for line in text["runs"]
    ]
    curves = {
        kind: [
            Curve(
                title=f"{model}, {title}",
                points=[(point["at"], point[measure]) for point in each[kind]],
            )
            for model, each in by_model.items()
            for title, measure in (("teacher-forced", "accuracy"), ("greedy", "greedy_accuracy"))
        ]
        for kind in ("interpolation", "neighbours")
    }
    shares = drawn[0]["shown_variance"] if drawn else None
    draw_geometry(path, paths, curves["interpolation"], curves["neighbours"], shown_variance=shares)


def _plan_table(found: BookPlan, *, search: bool) -> Table:
    held = f"{found.gain_bits:.0f} ± {found.gain_bits_error:.0f} bits"
    if not search:
        held = f"about {found.gain_bits:.0f} bits, by the model's calibration"
    error = f" ± {found.num_vectors_error:.0f}" if math.isfinite(found.num_vectors_error) else ""
    rows = [
        ("original", f"{found.original_bytes:,} bytes, {found.num_tokens:,} tokens"),
        ("bits a token", f"{found.bits_a_token:.2f} ± {found.bits_a_token_error:.2f}"),
        ("one vector holds", f"{held}, {found.tokens_a_vector:.0f} tokens"),
        ("vectors, each full", f"{found.num_vectors:,}{error}"),
        ("vectors, as in the trials", f"{found.num_vectors_at_load:,}; of "
                                      f"{found.num_trials} trials {found.num_trials_exact} exact"),
        ("vectors, the paper's count", f"{found.num_vectors_by_tokens:,} in "
                                       f"{found.num_segments:,} segments"),
        ("bytes at 16 bits", f"{found.bytes_at_16_bits:,}"),
        (f"bytes at {found.bits} bits", f"{found.bytes_at_bits:,}"),
        ("optimising", _time_text(found.optimiser_seconds)),
        ("decoding", _time_text(found.decoding_seconds)),
    ]  # fmt: skip
    return table(f"Plan for {found.model}", ("", ""), rows)


def _time_text(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
