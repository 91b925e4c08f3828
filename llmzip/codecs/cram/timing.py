"""How long cramming will take, from a few steps on its own first chunks.

Owns the timing of a step and what is usual of a preset. Knows nothing of sizes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from llmzip.codecs.cram.contexts import Contexts
from llmzip.codecs.cram.groups import Group
from llmzip.codecs.cram.optimizer import Rows, start_slot
from llmzip.codecs.cram.tasks import Task, step_tokens
from llmzip.config import DEFAULT_MAX_STEPS, CompressSettings, Preset
from llmzip.lm.devices import first_step_tokens
from llmzip.lm.loaded import LoadedModel

_TIMED_STEPS = 2
# Steps of a chunk, of the usual prose: with 16 bits; on a grid a plan's own number of them, nearly.
_STEPS_AT_16_BITS: dict[Preset, int] = {"fast": 13, "balanced": 21, "small": 37}
_DECODING = 1.1  # of the optimiser's time, with certifying and decoding once more


def cram_seconds(groups: Sequence[Group], loaded: LoadedModel, settings: CompressSettings) -> float:
    """About how long cramming these groups and decoding them once more takes here."""
    tasks = [task for group in groups for task in group.tasks]
    grid = groups[0].grid
    steps = _STEPS_AT_16_BITS[settings.preset] if grid is None else grid.total_steps
    tokens = sum(group.num_tokens for group in groups)
    return _DECODING * steps * tokens * seconds_a_token_step(tasks, loaded, settings)


def seconds_a_token_step(
    tasks: Sequence[Task], loaded: LoadedModel, settings: CompressSettings
) -> float:
    """Seconds that a step takes for each token of a full batch."""
    picked = _one_batch(tasks, first_step_tokens(loaded.lm.device), settings.num_mem)
    slots = [start_slot(loaded.lm, task, settings.num_mem, settings.seed) for task in picked]
    for slot in slots:
        slot.step = DEFAULT_MAX_STEPS  # long enough under way that every token is taken up
    rows = Rows(loaded.lm, Contexts(loaded.lm), slots)
    rows.measure()
    rows.step()
    rows.look()
    began = time.monotonic()
    for _ in range(_TIMED_STEPS):
        rows.measure()
        rows.step()
        rows.look()
    tokens = sum(task.num_tokens for task in picked)
    return (time.monotonic() - began) / _TIMED_STEPS / tokens


def _one_batch(tasks: Sequence[Task], room: int, num_mem: int) -> list[Task]:
    taken: list[Task] = []
    for task in tasks:
        if taken and step_tokens([*taken, task], num_mem) > room:
            break
        taken.append(task)
    return taken
