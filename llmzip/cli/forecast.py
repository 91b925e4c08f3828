"""What `compress --dry-run` says: a forecast as text and as JSON.

Owns the words of a forecast and of a time. Knows nothing of how it was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmzip.config import CompressSettings
from llmzip.inspect.figures import MODEL_NOT_COUNTED, STORED

if TYPE_CHECKING:
    from llmzip.codecs.base import Estimate

SCHEMA = 1


def forecast_fields(estimate: Estimate, settings: CompressSettings) -> dict[str, object]:
    """Ready for JSON. Fields may be added under one `schema`; none changes its meaning."""
    return {
        "schema": SCHEMA,
        "dry_run": True,
        "codec": estimate.codec,
        "original_bytes": estimate.original_bytes,
        "container_bytes": estimate.container_bytes,
        "file_bits_per_byte": estimate.bits_per_byte(estimate.container_bytes),
        "seconds": estimate.seconds,
        "time_budget_s": settings.time_budget_s,
        "num_chunks": estimate.num_chunks,
        "num_vectors": estimate.num_vectors,
        "steps_a_chunk": estimate.steps_a_chunk,
        "tried_chunks": estimate.tried_chunks,
        "xz_9e_bytes": estimate.xz_bytes,
        "xz_9e_bits_per_byte": estimate.bits_per_byte(estimate.xz_bytes),
    }


def forecast_text(name: str, estimate: Estimate, settings: CompressSettings) -> str:
    """Plain lines, the last one with its newline. `name` is ready to print."""
    rate = estimate.bits_per_byte(estimate.container_bytes)
    if rate is None:
        return f"{name}: empty; the container takes {estimate.container_bytes:,} bytes\n"
    sizes = (
        f"{estimate.original_bytes:,} → about {estimate.container_bytes:,} bytes "
        f"({rate:.2f} bits per byte)"
    )
    xz = f"xz -9e {estimate.xz_bytes:,} ({estimate.bits_per_byte(estimate.xz_bytes):.2f})"
    if estimate.codec == STORED:
        return f"{name}: {sizes}, stored without the model in a moment; {xz}\n"
    lines = [
        f"{name}: about {time_text(estimate.seconds)}, {sizes}, {estimate.result}; {xz} "
        f"({MODEL_NOT_COUNTED})",
        f"forecast from {estimate.sample}; nothing was written",
        *_notes(estimate, settings),
    ]
    return "\n".join(lines) + "\n"


def _notes(estimate: Estimate, settings: CompressSettings) -> list[str]:
    """What a forecast leaves out of account."""
    budget, notes = settings.time_budget_s, []
    if estimate.keeps_budget and budget is not None and budget < estimate.seconds:
        notes.append(
            f"note: more than the time budget of {time_text(budget)}; what is not crammed by then "
            "would be stored, so the file would be another size"
        )
    if estimate.left_out:
        left_out = " and ".join(estimate.left_out)
        notes.append(f"note: the work of {left_out} is not in this forecast")
    return notes


def time_text(seconds: float) -> str:
    """A time as people say it: "40 s", "14 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest} min" if rest else f"{hours:,} h"
