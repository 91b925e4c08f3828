"""`explain` and `vectors`: what is in a file, piece by piece, and its vectors for research."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import llmzip
from llmzip.cli.main import main
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.config import DecompressSettings
from llmzip.inspect.explain import explain_bytes
from llmzip.inspect.pieces import WHY, Piece, read_pieces
from llmzip.inspect.report import printable, read_report
from llmzip.lm.model import load_model, start_token
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve
from llmzip.store.container import read_container
from llmzip.store.residual import Ranked
from llmzip.store.vectors import mem_bits
from tests.containers import arith_of, cram_of
from tests.tiny_models import SHORT_TEXT, TEXT

DATA = Path(__file__).resolve().parent / "data"
CRAM = {"budget_bits": 60.0, "max_steps": 30, "context_tokens": 16}


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama"))


@pytest.fixture(scope="module", params=["bf16", "grid"])
def crammed(request: pytest.FixtureRequest, llama: str) -> bytes:
    options = {"bits": 16} if request.param == "bf16" else {"preset": "fast"}
    return llmzip.compress(SHORT_TEXT, model=llama, **CRAM, **options)  # type: ignore[arg-type]


def check_sums(pieces: list[Piece], data: bytes) -> None:
    report = read_report(data)
    counts = report.bit_counts
    for name, total in (("vector_bits", counts.vectors), ("patch_bits", counts.patches),
                        ("stored_bits", counts.stored)):  # fmt: skip
        if name != "vector_bits" or report.arith is None:
            assert sum(getattr(piece, name) for piece in pieces) == pytest.approx(total)
    assert sum(piece.num_tokens for piece in pieces) == report.num_tokens
    assert sum(piece.num_patches for piece in pieces) == report.num_patches
    assert sum(piece.num_bytes for piece in pieces) == report.original_bytes
    kinds = [piece.kind for piece in pieces]
    assert kinds.count("crammed") == report.num_crammed
    assert kinds.count("patched") == report.num_patched
    assert kinds.count("literal") == report.num_literal


@pytest.mark.parametrize("path", sorted(DATA.glob("*.crm")), ids=lambda path: path.stem)
def test_pieces_add_up(path: Path) -> None:
    check_sums(read_pieces(path.read_bytes()), path.read_bytes())


def test_the_model_adds_surprisal_and_margins(crammed: bytes, llama: str) -> None:
    pieces = explain_bytes(crammed, DecompressSettings(model=llama))
    check_sums(pieces, crammed)
    plain = read_pieces(crammed)
    whole = SHORT_TEXT
    for piece, before in zip(pieces, plain, strict=True):
        assert (piece.kind, piece.bits) == (before.kind, before.bits)
        assert before.surprisal_bits is None and before.head is None
        if piece.kind == "stored":
            continue
        text = whole[piece.first_byte : piece.first_byte + piece.num_bytes].decode(
            "utf-8", "replace"
        )
        assert piece.head == text[:40]
        assert piece.surprisal_bits is not None and 0 < piece.surprisal_bits
        assert (piece.min_margin is None) == (piece.kind == "literal")
    weakest = min(piece.min_margin for piece in pieces if piece.min_margin is not None)
    stored = cram_of(read_container(crammed)).min_margin
    assert stored is not None and weakest >= 0.9 * stored
    assert pieces[0].surprisal_bits == pytest.approx(plain_bits(llama, pieces[0]), rel=1e-3)


def plain_bits(model: str, piece: Piece) -> float:
    """Surprisal of a file's first chunk, from the model's logits."""
    files = resolve(model)
    tokens = Tokens.load(files.path)
    lm = load_model(files, device=torch.device("cpu"), dtype=torch.float32, attention="sdpa")
    ids = torch.tensor(tokens.encode(SHORT_TEXT)[0].ids)[: piece.num_tokens]
    start = start_token(files, tokens)
    whole = ids if start is None else torch.cat([torch.tensor([start]), ids])
    with torch.no_grad():
        live = torch.ones(1, len(whole), dtype=torch.bool)
        hidden, _ = lm.extend(lm.empty(1), lm.embed(whole)[None], live)
        logs = lm.logits(hidden[0, :-1]).log_softmax(dim=1)
    bits = -logs.gather(1, whole[1:, None]).sum().item() / math.log(2)
    return bits + (math.log2(lm.vocab_size) if start is None else 0.0)


def test_segments_of_arith_files(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
    monkeypatch.setattr("llmzip.codecs.arith.segments._TOKENS_OF_ONE_LANE", 100)
    monkeypatch.setattr("llmzip.codecs.arith.segments._SEGMENT_BYTES", 150)
    packed = llmzip.compress(TEXT[:400].encode(), model=llama, codec="arith", shared_mem=1)
    pieces = explain_bytes(packed, DecompressSettings(model=llama))
    assert len(pieces) > 1 and {piece.kind for piece in pieces} == {"segment"}
    assert sum(piece.stream_bits for piece in pieces) == read_report(packed).bit_counts.streams
    assert pieces[0].head == TEXT[:40] and pieces[0].surprisal_bits == pieces[0].stream_bits


def test_the_table(
    crammed: bytes, llama: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.crm"
    path.write_bytes(crammed)
    pieces = read_pieces(crammed)
    assert main(["explain", str(path), "--model", llama, "--text", "-q"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == [
        "#", "bytes", "tokens", "kind", "surprisal", "bits", "of", "text", "patches", "margin",
        "text",
    ]  # fmt: skip
    assert lines[1].split()[:4] == [
        "1", f"0-{pieces[0].num_bytes - 1}", str(pieces[0].num_tokens), pieces[0].kind,
    ]  # fmt: skip
    front = SHORT_TEXT[: pieces[0].num_bytes].decode("utf-8", "replace")
    assert lines[1].endswith(printable(front[:40]).rstrip())
    assert lines[len(pieces) + 1] == ""
    told = "\n".join(lines)
    assert f"{8 * len(crammed):,} bits with" in told and f"{len(crammed):,} bytes" in told
    assert "stored bits for one of them" in told
    for kind in {piece.kind for piece in pieces}:
        assert f"{kind}: {WHY[kind]}" in lines
    assert main(["explain", str(path), "--no-model", "--chunks", "2-3"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["2", "3"] and lines[3] == ""
    assert lines[1].split()[4] == "-"


def test_json(crammed: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.crm"
    path.write_bytes(crammed)
    assert main(["explain", str(path), "--no-model", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["schema"] == 1 and found["codec"] == "cram"
    assert [piece["kind"] for piece in found["pieces"]] == [p.kind for p in read_pieces(crammed)]
    assert found["pieces"][0]["why"] and found["pieces"][0]["surprisal_bits"] is None


def test_what_cannot_be_explained(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.crm"
    path.write_bytes(b"no such file")
    assert main(["explain", str(path)]) == 3
    assert main(["explain", str(tmp_path / "missing")]) == 1
    assert main(["explain", str(DATA / "v1_tiny.crm")]) == 5  # its model is nobody's
    assert main(["explain", str(DATA / "v1_stored.crm")]) == 0


# Vectors


def test_vectors_are_those_of_the_file(
    crammed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.crm").write_bytes(crammed)
    assert main(["vectors", "x.crm"]) == 0
    assert main(["vectors", "x.crm"]) == 1  # it is there
    assert main(["vectors", "x.crm", "-f", "--dtype", "fp32", "-q"]) == 0
    payload = cram_of(read_container(crammed))
    with safe_open("x.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    assert metadata["model_digest"] == payload.model.digest.hex()
    assert metadata["bits"] == str(payload.bits) and metadata["codec"] == "cram"
    with_mem = [(n, chunk) for n, chunk in enumerate(payload.chunks) if chunk.mem is not None]
    assert tensors["mem"].shape == (len(with_mem), payload.num_mem, payload.mem_dim)
    assert tensors["mem"].dtype == torch.float32
    assert tensors["chunk"].tolist() == [number for number, _ in with_mem]
    begins = [sum(chunk.num_bytes for chunk in payload.chunks[:number]) for number, _ in with_mem]
    assert tensors["first_byte"].tolist() == begins
    assert tensors["num_tokens"].tolist() == [chunk.num_tokens for _, chunk in with_mem]
    patches = []
    for row, (_, chunk) in enumerate(with_mem):
        assert chunk.mem is not None
        bits = torch.from_numpy(mem_bits(chunk.mem).copy()).view(torch.bfloat16).float()
        assert torch.equal(tensors["mem"][row], bits)
        for position, token in chunk.patches:
            name = [-1 if token is None else token, -1, -1, -1]
            if isinstance(token, Ranked):
                name = [-1, token.skip, token.size, token.index]
            patches.append([row, position, *name])
    assert tensors["patches"].tolist() == patches


def test_vectors_of_arith_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "v.safetensors"
    arith = arith_of(read_container((DATA / "v1_arith.crm").read_bytes()))
    code = main(["vectors", str(DATA / "v1_arith.crm"), "-o", str(out)])
    if arith.mem is None:
        assert code == 1 and "the file holds no vectors" in capfd.readouterr().err
    else:
        assert code == 0
        with safe_open(out, "pt") as file:
            assert file.get_tensor("mem").shape == (1, arith.num_mem, arith.mem_dim)


def test_files_without_vectors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "v.safetensors")
    assert main(["vectors", str(DATA / "v1_stored.crm"), "-o", out]) == 1
    assert "the file holds no vectors" in capfd.readouterr().err
    assert main(["vectors", str(DATA / "v1_prose.crm"), "-o", out, "--dtype", "int8"]) == 2
    assert not Path(out).exists()
