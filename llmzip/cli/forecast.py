"""What `compress --dry-run` says: a forecast as text and as JSON.

Owns the words of a forecast and of a time. Knows nothing of how it was made. Called by
`cli.compress`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmzip.config import CompressSettings
from llmzip.report import MODEL_NOT_COUNTED

if TYPE_CHECKING:
    from llmzip.estimate import Estimate

SCHEMA = 1


def forecast_fields(estimate: Estimate, settings: CompressSettings) -> dict[str, object]:
    """Ready for JSON. Fields may be added under one `schema`; none changes its meaning."""
    return {
        "schema": SCHEMA,
        "dry_run": True,
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
    if not estimate.num_chunks:
        return f"{name}: {sizes}, stored without the model in a moment; {xz}\n"
    vectors = f"{estimate.num_vectors:,} vector{'' if estimate.num_vectors == 1 else 's'}"
    lines = [
        f"{name}: about {time_text(estimate.seconds)}, {sizes}, {vectors}; {xz} "
        f"({MODEL_NOT_COUNTED})",
        f"forecast from {estimate.tried_chunks} of {estimate.num_chunks:,} chunks; nothing was "
        "written",
    ]
    budget = settings.time_budget_s
    if budget is not None and budget < estimate.seconds:
        lines.append(
            f"note: more than the time budget of {time_text(budget)}; what is not crammed by then "
            "would be stored, so the file would be another size"
        )
    return "\n".join(lines) + "\n"


def time_text(seconds: float) -> str:
    """A time as people say it: "40 s", "14 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest} min" if rest else f"{hours:,} h"
