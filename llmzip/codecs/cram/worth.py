"""Whether vectors are worth their bytes: what a text takes with them, without them, and as it is.

Owns the rule by which a text is stored instead of crammed. It holds for the vectors of a preset;
whoever names vectors (`num_mem`, `bits`, `budget_bits`) gets them, and who asks for `fast` spends
bytes to save time: then only a small file may not grow. Knows nothing of optimisation.
"""

from __future__ import annotations

from llmzip.codecs.base import Draft, Source, stored_draft
from llmzip.codecs.cram.plan import Plan
from llmzip.config import CompressSettings
from llmzip.store.stored import pack_stored

GROWTH_BYTES = 64  # more than its text has no file of a preset's vectors, if storing takes less
SMALL_BYTES = 512  # of text
_FILE_BYTES = 122  # header, columns and checksums
# Of prose, measured (docs/LOG.md): bits of a coordinate, of those that a plan asks for; bits of a
# patch. Nearly as many tokens are patched as may be.
_BITS_SHARE, _PATCH_BITS = 1.1, 21.0


def is_worth_cramming(
    source: Source, plan: Plan, settings: CompressSettings, *, mem_dim: int
) -> bool:
    """Whether steps are spent on a text. Not where the file is expected to be larger than the text;
    nor, of a small text or a single chunk, than the text stored without a model: few vectors have
    to pay for the header's fields of the model."""
    data = source.data
    if _may_grow(data, settings) or plan.grid is None:
        return True
    tasks = list(plan.tasks)
    vector_bits = len(tasks) * mem_dim * plan.grid.bits * _BITS_SHARE
    num_patches = settings.max_patches * sum(task.num_tokens for task in tasks)
    expected = _FILE_BYTES + (vector_bits + _PATCH_BITS * num_patches) / 8
    expected += sum(len(part.data) for part, segments in plan.parts if not segments)
    is_small = len(data) <= SMALL_BYTES or len(tasks) == 1
    most = len(pack_stored(data)) if is_small else len(data) + GROWTH_BYTES
    return expected < most


def smaller_draft(draft: Draft, data: bytes, settings: CompressSettings) -> Draft:
    """A draft of crammed text, or the text stored, where that keeps the file from growing."""
    if _may_grow(data, settings) or draft.num_bytes <= len(data) + GROWTH_BYTES:
        return draft
    stored = stored_draft(data)
    return stored if stored.num_bytes < draft.num_bytes else draft


def _may_grow(data: bytes, settings: CompressSettings) -> bool:
    """Whether somebody has chosen what the vectors take."""
    if settings.preset == "fast" and len(data) > SMALL_BYTES:
        return True
    named = (settings.bits, settings.budget_bits)
    return settings.num_mem > 1 or any(value is not None for value in named)
