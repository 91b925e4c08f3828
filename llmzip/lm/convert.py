"""A llama-shaped GGUF file turned into a directory that every Hugging Face tool can load.

Owns the translation of names, of the rotary row order and of the byte-level BPE tables. The result
is the canonical form of a named model: tensors dequantised, then rounded to bf16. Written straight
from the GGUF tables, so that no release of transformers can change the outcome. Knows nothing of
where the file came from or where the result belongs; `zoo` calls it and checks the result's digest.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmzip.errors import ModelUnavailable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CONTROL_TOKEN = 3  # the GGUF token type of tokens that text never spells
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
        kind = (meta["general.architecture"], meta["tokenizer.ggml.model"])
        if kind != ("llama", "gpt2"):
            raise ModelUnavailable(
                f"{source.name} is a {kind[0]} model with a {kind[1]} vocabulary"
            )
        tensors = {_tensor_name(tensor.name): tensor for tensor in reader.tensors}
        tied = "lm_head.weight" not in tensors
        _write(target / "config.json", _json(_config(meta, tied=tied)))
        _write(target / "tokenizer.json", _json(_tokenizer(meta)))
        _write(target / "tokenizer_config.json", _json(_tokenizer_config(meta)))
        _write_weights(target / "model.safetensors", tensors, meta)
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
        # GGUF keeps these two as fp32: seven digits give back the number that was meant.
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
    """The tables of a `tokenizers` file: byte-level BPE; "smollm" splits digits one by one."""
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    byte_level: dict[str, Any] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    digits = {"type": "Digits", "individual_digits": True}
    splitter = byte_level
    if meta.get("tokenizer.ggml.pre") == "smollm":
        splitter = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": tokens[token_id],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token_id, kind in enumerate(meta["tokenizer.ggml.token_type"])
            if kind == _CONTROL_TOKEN
        ],
        "normalizer": None,
        "pre_tokenizer": splitter,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
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


def _write_weights(path: Path, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
    """A safetensors file, tensors in name order, one dequantised tensor in memory at a time."""
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
    with path.open("xb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for name in sorted(tensors):
            values = dequantize(tensors[name].data, tensors[name].tensor_type)
            values = values.reshape(header[name]["shape"])
            for suffix, heads in num_heads.items():
                if name.endswith(suffix):
                    values = _half_split_rows(values, heads)
            out.write(_bf16_bytes(values))
        out.flush()
        os.fsync(out.fileno())


def _half_split_rows(values: npt.NDArray[np.float32], num_heads: int) -> npt.NDArray[np.float32]:
    """Rotary pairs from GGUF's neighbouring rows to the half-split order of transformers."""
    pairs = values.reshape(num_heads, -1, 2, values.shape[1])  # [H, head_dim/2, 2, D]
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _bf16_bytes(values: npt.NDArray[np.float32]) -> bytes:
    """fp32 to bf16, ties to even, little-endian. NaN and infinity are refused."""
    import numpy as np

    if not np.isfinite(values).all():
        raise ValueError("a weight is not finite")
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded: npt.NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded.tobytes()


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
