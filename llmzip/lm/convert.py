"""Conversion of a GGUF file of a llama model to a directory that every Hugging Face tool can load.

Owns the translation of tensor names, of the order of rows for rotary positions and of the tables of
a byte-level BPE vocabulary. The result is the canonical form of a named model: tensors dequantised,
then rounded to bf16. It is written directly from the GGUF tables, so that no release of
transformers can change it. Knows nothing of where the file comes from or where the result belongs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmzip.errors import ModelUnavailable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CONTROL_TOKEN = 3  # the GGUF token type of tokens that no text contains
_OUTER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(source: Path, target: Path) -> None:
    """Write config.json, model.safetensors (bf16) and the tokenizer of `source` into `target`.

    `target` is an existing empty directory; every file in it is synced to disk on return.
    Raises `ModelUnavailable` where the file is not a llama model with a byte-level BPE vocabulary.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(source)
        meta = {
            name: field.contents()
            for name, field in reader.fields.items()
            if name.startswith(("general.architecture", "llama.", "tokenizer.ggml."))
        }
        kind, vocabulary = meta["general.architecture"], meta["tokenizer.ggml.model"]
        if (kind, vocabulary) != ("llama", "gpt2"):
            reason = f"a {kind} model with a {vocabulary} vocabulary"
            raise ModelUnavailable(f"{source.name} is {reason}")
        tensors = {_tensor_name(tensor.name): tensor for tensor in reader.tensors}
        contents = {
            "config.json": _config(meta, tied="lm_head.weight" not in tensors),
            "tokenizer.json": _tokenizer(meta),
            "tokenizer_config.json": _tokenizer_config(meta),
        }
        for name, content in contents.items():
            _write(target / name, [_json(content)])
        _write(target / "model.safetensors", _weights(tensors, meta))
    except (KeyError, IndexError, ValueError) as cause:
        raise ModelUnavailable(f"{source.name} is not a readable GGUF model: {cause}") from cause


def _tensor_name(gguf_name: str) -> str:
    if gguf_name in _OUTER_TENSORS:
        return _OUTER_TENSORS[gguf_name]
    _, layer, part, kind = gguf_name.split(".")
    return f"model.layers.{int(layer)}.{_LAYER_TENSORS[part]}.{kind}"


def _config(meta: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    num_heads = meta["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "dtype": "bfloat16",
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "head_dim": meta["llama.embedding_length"] // num_heads,
        "hidden_act": "silu",
        "hidden_size": meta["llama.embedding_length"],
        "initializer_range": 0.02,
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": num_heads,
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "pretraining_tp": 1,
        # GGUF stores these two in fp32: rounding to seven digits restores the original number.
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.7g}"),
        "rope_parameters": {
            "rope_theta": float(f"{meta['llama.rope.freq_base']:.7g}"),
            "rope_type": "default",
        },
        "tie_word_embeddings": tied,
        "use_cache": True,
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
    }


def _tokenizer(meta: dict[str, Any]) -> dict[str, Any]:
    """The content of tokenizer.json for a byte-level BPE vocabulary."""
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    byte_level: dict[str, Any] = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True
    }  # fmt: skip
    splitter = byte_level
    if meta.get("tokenizer.ggml.pre") == "smollm":  # every digit is a token
        digits = {"type": "Digits", "individual_digits": True}
        splitter = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    unchanged = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, "content": tokens[token_id], **unchanged, "special": True}
            for token_id, kind in enumerate(meta["tokenizer.ggml.token_type"])
            if kind == _CONTROL_TOKEN
        ],
        "normalizer": None,
        "pre_tokenizer": splitter,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            **dict.fromkeys(("dropout", "unk_token")),
            **dict.fromkeys(("continuing_subword_prefix", "end_of_word_suffix")),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
            "vocab": {token: token_id for token_id, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in meta["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(meta: dict[str, Any]) -> dict[str, Any]:
    tokens = meta["tokenizer.ggml.tokens"]
    # The class is named because a llama config alone would make transformers expect SentencePiece.
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[meta["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[meta["tokenizer.ggml.eos_token_id"]],
        "clean_up_tokenization_spaces": False,
    }


def _weights(tensors: dict[str, Any], meta: dict[str, Any]) -> Iterator[bytes]:
    """A safetensors file in parts: tensors sorted by name, one of them in memory at a time."""
    from gguf import dequantize

    num_heads = {
        "q_proj.weight": meta["llama.attention.head_count"],
        "k_proj.weight": meta["llama.attention.head_count_kv"],
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors):
        shape = [int(size) for size in reversed(tensors[name].shape)]  # GGUF: fastest axis first
        begin, end = end, end + 2 * int(tensors[name].n_elements)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    head = _json(header)
    head += b" " * (-len(head) % 8)
    yield len(head).to_bytes(8, "little") + head
    for name in sorted(tensors):
        values = dequantize(tensors[name].data, tensors[name].tensor_type)
        values = values.reshape(header[name]["shape"])
        for suffix, heads in num_heads.items():
            if name.endswith(suffix):
                values = _half_split_rows(values, heads)
        yield _bf16_bytes(values)


def _half_split_rows(values: npt.NDArray[np.float32], num_heads: int) -> npt.NDArray[np.float32]:
    """Move the rows of rotary pairs from GGUF's order, where the two are neighbours, to that of
    transformers, where each is in its own half."""
    pairs = values.reshape(num_heads, -1, 2, values.shape[1])  # [H, head_dim/2, 2, D]
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _bf16_bytes(values: npt.NDArray[np.float32]) -> bytes:
    """fp32 rounded to bf16, ties to even, little-endian. Raises ValueError for NaN and infinity."""
    import numpy as np

    if not np.isfinite(values).all():
        raise ValueError("a weight is not finite")
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded: npt.NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded.tobytes()


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _write(path: Path, parts: Iterable[bytes]) -> None:
    """Make a file of these parts, which is synced to disk at the end."""
    with path.open("xb") as out:
        out.writelines(parts)
        out.flush()
        os.fsync(out.fileno())
