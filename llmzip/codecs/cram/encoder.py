"""Text and a model -> a container of the cram codec, and how it is read back.

Owns the steps: plan, cram the groups of the plan, assemble the container. Knows nothing of how
models are found, nor of who crams.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmzip.codecs.base import Draft, Source, stored_draft
from llmzip.codecs.context import Context
from llmzip.codecs.cram.checkpoint import EngineState, unpack_crammed, unpack_state
from llmzip.codecs.cram.events import CramEvents
from llmzip.codecs.cram.executor import KEPT, Executor, executor_of
from llmzip.codecs.cram.groups import groups_of, unfinished
from llmzip.codecs.cram.payload import assemble, is_worth_cramming, smaller_draft
from llmzip.codecs.cram.plan import Plan, make_plan
from llmzip.codecs.cram.tasks import Crammed
from llmzip.config import CompressSettings
from llmzip.lm.loaded import LoadedModel
from llmzip.progress import Progress
from llmzip.store.container import Container
from llmzip.store.cram_payload import CramPayload
from llmzip.store.payload import StoredRun
from llmzip.store.pieces import Texts


def encode_cram(
    source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
) -> Draft:
    """The container of a source; of all of it stored, where the vectors that nobody chose would
    take more than the text (`payload.is_worth_cramming`)."""
    executor = executor_of(loaded, settings, context)
    plan = make_plan(source.parts, loaded, settings, context, executor.read)
    if not is_worth_cramming(source, plan, settings, mem_dim=loaded.decode_lm.dim):
        return stored_draft(source.data)
    crammed = list(cram_plan(plan, loaded, executor, context))
    container = assemble(source, plan, crammed, loaded, settings)
    _report_unwanted(source, container, context)

    def read_back(packed: bytes, found: Container) -> Texts:
        if found.payload is None:  # nothing was crammed in time
            return []
        assert isinstance(found.payload, CramPayload)
        return executor.decode(packed, found.payload)

    draft = Draft(container=container, read_back=read_back)
    return smaller_draft(draft, source.data, settings)


def cram_plan(
    plan: Plan, loaded: LoadedModel, executor: Executor, context: Context
) -> Iterator[Crammed]:
    """Finished chunks, in no fixed order; first those that the journal has."""
    events = CramEvents(plan, loaded.tokens, context)
    by_index, journal = plan.by_index, context.journal
    kept: list[Crammed] = []
    state: EngineState | None = None
    if journal is not None:  # of an earlier run
        kept = [chunk for data in journal.kept(KEPT) for chunk in unpack_crammed(data, by_index)]
        if packed := journal.state(KEPT):
            state = unpack_state(packed, by_index, loaded.lm.device)
    events.resume(kept)
    yield from kept
    groups = unfinished(groups_of(plan, loaded.lm.device.type), kept)
    yield from executor.cram(plan, groups, state, events)


def _report_unwanted(source: Source, container: Container, context: Context) -> None:
    """Say how much text the end of a time budget has left to be stored."""
    stored = sum(run.num_bytes for run in container.runs if isinstance(run, StoredRun))
    unwanted = stored - sum(len(part.data) for part in source.parts if part.ids is None)
    if unwanted:
        say = f"time budget: {unwanted:,} of {len(source.data):,} bytes are stored, not crammed"
        context.report(Progress(stage="cram", message=say))
