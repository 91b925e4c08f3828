"""Vectors recite their text, in plain transformers: llmzip only writes and reads the file.

    python examples/recite.py             two sentences, crammed without patches: half a minute
    python examples/recite.py FILE.crm    the chunks of a file of the default model

The model reads a chunk's left context and its vectors, and is asked for the most likely token,
again and again. It needs nothing else, unless the chunk has patches: then this says which tokens
the vectors do not give.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmzip
from llmzip.inspect.export import export_vectors
from llmzip.lm.zoo import DEFAULT_MODEL, resolve

TEXT = (
    b"The mill stood where the two streams met. In spring, when the snow came down from the "
    b"hills, its wheel turned day and night, and the miller slept in his boots."
)
# How the adapter's parts are called in transformers.
PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def load_default_model() -> tuple[torch.nn.Module, AutoTokenizer]:
    """The weights as they were published, and the low-rank changes that come with llmzip."""
    files = resolve(DEFAULT_MODEL)
    model = AutoModelForCausalLM.from_pretrained(files.path, dtype=torch.float32)
    factors = load_file(files.adapter)
    for index, layer in enumerate(model.model.layers):
        for part, names in PARTS.items():
            b, a = (factors[f"{index}.{part}.{which}"].float() for which in "ba")
            matrices = [layer.get_submodule(name).weight.data for name in names]
            changes = (b @ a).split([len(matrix) for matrix in matrices])
            for matrix, change in zip(matrices, changes, strict=True):
                matrix += change
    model.generation_config.eos_token_id = None  # how long a chunk is, the file says
    return model, AutoTokenizer.from_pretrained(files.path)


@torch.no_grad()
def embedded(model, ids: list[int]) -> torch.Tensor:
    """[T, D]."""
    return model.get_input_embeddings()(torch.tensor(ids, dtype=torch.int64))


@torch.no_grad()
def recite(model, context: torch.Tensor, mem: torch.Tensor, num_tokens: int) -> list[int]:
    """What the model says after the context [T, D] and the vectors [K, D]."""
    embeds = torch.cat([context, mem])[None]
    attended = torch.ones(embeds.shape[:2], dtype=torch.int64)
    said = model.generate(
        inputs_embeds=embeds, attention_mask=attended, max_new_tokens=num_tokens,
        do_sample=False, pad_token_id=0,
    )  # fmt: skip
    return said[0].tolist()


@torch.no_grad()
def read_along(model, context: torch.Tensor, mem: torch.Tensor, ids: list[int]) -> list[int]:
    """The token that the model would say at each place, if all before it were right."""
    embeds = torch.cat([context, mem, embedded(model, ids[:-1])])
    logits = model(inputs_embeds=embeds[None]).logits[0, len(context) + len(mem) - 1 :]
    return logits.argmax(dim=1).tolist()


def main(arguments: list[str]) -> int:
    if arguments:
        packed = Path(arguments[0]).read_bytes()
        data = llmzip.decompress(packed)
    else:
        packed, data = llmzip.compress(TEXT, bits=1, max_patches=0), TEXT
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as vectors:
        vectors.write(export_vectors(packed))
        vectors.flush()
        tensors = load_file(vectors.name)
        with safe_open(vectors.name, "pt") as opened:
            start = opened.metadata()["start_token"]
    model, tokenizer = load_default_model()
    start_ids = [int(start)] if start else []
    patched = {}
    for row, at, *_ in tensors["patches"].tolist():
        patched.setdefault(row, set()).add(at)
    tokens = tokenizer(data.decode(), add_special_tokens=False, return_offsets_mapping=True)
    place_of = {begin: place for place, (begin, _) in enumerate(tokens["offset_mapping"])}
    is_right, context = True, embedded(model, start_ids)
    for row, mem in enumerate(tensors["mem"].float()):
        first, size = int(tensors["first_byte"][row]), int(tensors["num_bytes"][row])
        num_tokens, number = int(tensors["num_tokens"][row]), int(tensors["chunk"][row]) + 1
        if tensors["starts_segment"][row]:
            context = embedded(model, start_ids)
            if "shared" in tensors and tensors["shared_row"][row] >= 0:
                before = tensors["shared"][tensors["shared_row"][row]].float()
                context = torch.cat([context, before])
        text = data[first : first + size].decode(errors="replace")
        place = place_of[len(data[:first].decode(errors="ignore"))]
        what = f"{len(mem)} x {mem.shape[1]} numbers, {num_tokens} tokens"
        if row not in patched:
            ids = recite(model, context, mem, num_tokens)
            same = tokenizer.decode(ids) == text
            print(f"chunk {number}: {what}{'' if same else ', OTHER THAN THE TEXT'}")
            print(tokenizer.decode(ids))
        else:
            ids = tokens["input_ids"][place : place + num_tokens]
            said = read_along(model, context, mem, ids)
            wrong = {at for at, token in enumerate(ids) if said[at] != token}
            same = wrong <= patched[row]
            print(f"chunk {number}: {what}, of which {len(patched[row])} are patched [in brackets]")
            shown = (
                f"[{tokenizer.decode([token])}]" if at in patched[row]
                else tokenizer.decode([token])
                for at, token in enumerate(ids)
            )  # fmt: skip
            print("".join(shown))
        is_right = is_right and same
        context = torch.cat([context, embedded(model, ids)])
    print("equal to the text" if is_right else "NOT equal to the text: please report this")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
