"""On a CUDA device, where there is one: what it makes is good everywhere, and it may be full.

Tests that leave the device to be chosen run there too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.cli.main import main
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.codecs.cram.chunking import CutRule, plan_segments
from llmzip.codecs.cram.signs import sign_plan
from llmzip.codecs.cram.slots import start_slot
from llmzip.codecs.cram.step_graph import Batches
from llmzip.codecs.cram.tasks import Contexts, Task
from llmzip.config import CompressSettings, ComputeSettings, DecompressSettings, Device
from llmzip.lab.recipes import Recipe
from llmzip.lab.runner import TrialRunner
from llmzip.lab.trials import Trial
from llmzip.lm.devices import MemoryGauge, is_out_of_memory
from llmzip.lm.graphs import graphs, uses_graphs
from llmzip.lm.loaded import load_for_compression
from llmzip.lm.state import stack_states
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve
from llmzip.store.container import read_container
from tests.lab_study import texts_of
from tests.tiny_models import ARCHITECTURES, TEXT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]

PROSE = TEXT.encode()[:150]
CUDA = torch.device("cuda", 0)


def compress(data: bytes, model: Path, device: Device, **settings: object) -> bytes:
    plain = {"budget_bits": 40.0, "max_steps": 80, "context_tokens": 0} | settings
    if plain.get("codec") == "arith":
        plain = settings
    compute = ComputeSettings(device=device)
    return compress_bytes(data, CompressSettings(model=str(model), compute=compute, **plain))  # type: ignore[arg-type]


def decompress(packed: bytes, model: Path, device: Device) -> bytes:
    compute = ComputeSettings(device=device)
    return decompress_bytes(packed, DecompressSettings(model=str(model), compute=compute))


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("context", [0, 256])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_vectors_made_there_decode_everywhere(
    tiny_model: Callable[..., Path], arch: str, context: int, bits: int
) -> None:
    model = tiny_model(arch)
    packed = compress(PROSE, model, "cuda", context_tokens=context, bits=bits, num_mem=2)
    chunks = read_container(packed).payload.chunks
    assert sum(chunk.mem is not None for chunk in chunks) > len(chunks) / 2
    assert decompress(packed, model, "cuda") == PROSE
    assert decompress(packed, model, "cpu") == PROSE


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_vectors_made_elsewhere_decode_there(tiny_model: Callable[..., Path], arch: str) -> None:
    model = tiny_model(arch)
    assert decompress(compress(PROSE, model, "cpu"), model, "cuda") == PROSE


@pytest.fixture
def _arith_whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model predicts worse than zstd: keep its containers all the same."""
    monkeypatch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
    monkeypatch.setattr("llmzip.codecs.arith.segments._TOKENS_OF_ONE_LANE", 40)


@pytest.mark.usefixtures("_arith_whatever_it_costs")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_coded_text_decodes_on_both(tiny_model: Callable[..., Path], arch: str) -> None:
    model = tiny_model(arch)
    for maker in ("cuda", "cpu"):
        packed = compress(PROSE, model, maker, codec="arith")
        for reader in ("cpu", "cuda"):
            assert decompress(packed, model, reader) == PROSE, f"from {maker} to {reader}"


def test_the_same_seed_gives_the_same_file(tiny_model: Callable[..., Path]) -> None:
    model = tiny_model("llama")
    assert compress(PROSE, model, "cuda") == compress(PROSE, model, "cuda")


@pytest.fixture
def little_memory() -> Iterator[Callable[[int], None]]:
    """Leaves this process so many bytes beside what it has."""
    total = torch.cuda.get_device_properties(CUDA).total_memory

    def leave(num_bytes: int) -> None:
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved(CUDA)
        torch.cuda.set_per_process_memory_fraction((held + num_bytes) / total, CUDA)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    torch.cuda.empty_cache()


def test_a_full_device_is_told_apart(little_memory: Callable[[int], None]) -> None:
    little_memory(1 << 20)
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(1 << 28, device=CUDA)
    assert is_out_of_memory(caught.value)


def test_the_gauge_fits_steps_to_the_memory_there_is() -> None:
    gauge = MemoryGauge(CUDA)
    some = torch.zeros(1 << 24, device=CUDA)  # 64 MiB
    fits = gauge.step_tokens(1000)
    free, _ = torch.cuda.mem_get_info(CUDA)
    assert 1000 < fits < 1000 * (free + some.nbytes) / some.nbytes


def test_the_lab_crams_as_many_texts_as_there_is_room_for(
    tiny_model: Callable[..., Path], little_memory: Callable[[int], None]
) -> None:
    files = resolve(str(tiny_model("llama", bos=True)))
    loaded = load_for_compression(files, Tokens.load(files.path), ComputeSettings(device="cuda"))
    (sample,) = texts_of(loaded, count=1, num_tokens=400)
    trials = [Trial(sample=sample, num_tokens=400, seed=seed) for seed in range(64)]

    def cram() -> list[int]:
        sizes: list[int] = []
        runner = TrialRunner(
            loaded.lm, loaded.decode_lm, Recipe(max_steps=3, patience=3), start_id=loaded.start_id,
            batch_tokens=1 << 20, on_step=lambda runs: sizes.append(len(runs)),
        )  # fmt: skip
        outcomes = list(runner.run(trials))
        assert len(outcomes) == 64
        assert all(outcome.mem.device.type == "cpu" for outcome in outcomes)
        return sizes

    torch.cuda.reset_peak_memory_stats(CUDA)
    held = torch.cuda.memory_allocated(CUDA)
    assert max(cram()) == 64
    little_memory((torch.cuda.max_memory_allocated(CUDA) - held) // 2)
    assert max(cram()) < 64


def test_the_doctor_knows_the_device(
    tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--model", str(tiny_model("llama")), "--json"])
    said = capfd.readouterr().out
    assert torch.cuda.get_device_name(CUDA) in said


def test_graphs_give_what_their_kernels_give(tiny_model: Callable[..., Path]) -> None:
    """Captured, not called: steps, and tokens of both codecs."""
    model = tiny_model("llama")
    loaded = load_for_compression(
        resolve(str(model)), Tokens.load(model), ComputeSettings(device="cuda")
    )
    lm = loaded.decode_lm
    ids, live = torch.tensor([[5, 6, 7]] * 3, device=CUDA), torch.ones(3, 3, dtype=torch.bool)

    @torch.no_grad()
    def read(tokens: int) -> torch.Tensor:
        room = stack_states([lm.empty(3)], room_slots=20)
        _, state = lm.extend(room, lm.embed(ids), live.to(CUDA))
        for token in range(tokens):
            hidden, state = lm.read_tokens(state, torch.full((3,), token, device=CUDA))
        return hidden.clone()

    with graphs(on=False):
        expected = read(9)
    assert torch.allclose(read(9), expected, atol=1e-4)
    (graph,) = lm._token_graphs._kept  # type: ignore[union-attr]
    assert graph._replay._graph is not None
    (whole,) = plan_segments(
        loaded.lm, [5, 6, 7, 8] * 9, CutRule(context_tokens=0, budget_bits=9e9), start_id=1
    )
    task = Task(segment=whole, start=0, end=len(whole.ids))
    plan = sign_plan(30)

    def hidden_numbers() -> torch.Tensor:
        slots = [start_slot(loaded.lm, task, 1, seed, plan=plan) for seed in range(3)]
        own = Batches(loaded.lm, Contexts(loaded.lm), min_margin=0.05, plan=plan, may_stop=None)
        batch = own.of(slots)
        for _ in range(5):
            batch.advance()
        batch.look()
        assert all(each._replay._graph is not None for each in own._kept.values())
        assert bool(own._kept) == uses_graphs(CUDA)
        return torch.cat([slot.signs.hidden for slot in slots if slot.signs is not None])

    with graphs(on=False):
        plain = hidden_numbers()
    assert torch.allclose(hidden_numbers(), plain, atol=0.05)
