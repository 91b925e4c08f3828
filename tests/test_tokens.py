"""Bytes to ids and back: on two hand-made vocabularies, then on the default model's."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.errors import Corrupt, FormatError, ModelUnavailable
from llmzip.lm import tokens, vocabulary, zoo
from llmzip.lm.tokens import Piece, Tokens

SPACE = "\u2581"
LACKING = 0x16  # the one byte that the byte-level toy has no token for
CASES = {
    "empty": b"",
    "one byte": b"a",
    "prose": b"The cat sat on the mat.\n\nThe mat was warm; the cat was not moved.\n",
    "crlf": b"the\r\ncat\r\n\r\rsat\n\r",
    "byte order mark": b"\xef\xbb\xbfthe cat",
    "nul": b"the\x00cat\x00\x00",
    "truncated character": b"the \xe2\x82",
    "lone continuation byte": b"the \x80 cat \xbf",
    "overlong and surrogate": b"\xc0\xaf \xed\xa0\x80\xed\xb0\x80 \xf8\x88\x80\x80\x80",
    "latin-1": "caf\xe9 \xfcber".encode("latin-1"),
    "utf-16": "the cat".encode("utf-16"),
    "emoji": "the \U0001f469\u200d\U0001f680 cat \U0001f3f4".encode(),
    "cjk": "\u732b\u5728\u57ab\u5b50\u4e0a\u3002\n\u306d\u3053".encode(),
    "both normal forms": "\xe9 e\u0301 \u212b \ufb01 \u1e9b\u0323".encode(),
    "unusual spaces": "a\u00a0b\u2028c\x0b\x0cd\x85e\u200bf".encode(),
    "the space mark itself": f"{SPACE}the{SPACE * 3} cat {SPACE}".encode(),
    "leading and trailing spaces": b"   the cat   ",
    "only spaces": b"       ",
    "literal special tokens": b"<|endoftext|>the<|im_start|>cat<s></s><unk><|endoftext|>",
    "literal byte tokens": b"<0x41><0x00> <0xE2><0x96><0x81>",
    "lacking byte": bytes([0x61, LACKING, 0x62]),
    "all bytes": bytes(range(256)),
}


def byte_level(**changes):
    """GPT-2's kind. Ids: 0 special, then bytes, then merges, then a non-special run of spaces."""
    alphabet = sorted(set(vocabulary.byte_alphabet()) - {vocabulary.byte_alphabet()[LACKING]})
    merges = [["t", "h"], ["th", "e"], ["\u0120", "the"], ["\u0120", "c"], ["a", "t"]]
    words = ["<|endoftext|>", *alphabet, *("".join(pair) for pair in merges)]
    size = len(words)
    content = {
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [
            added(0, "<|endoftext|>", special=True),
            added(size, "<|im_start|>", special=True),
            added(size + 1, "    ", special=False),
            added(size + 2, "(cat)", special=False, lstrip=True, rstrip=True),
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}},
    }
    content["model"]["merges"] = merges
    return content | changes


def sentencepiece(*, metaspace=False, fallback=True, **changes):
    """Llama 2's kind: <unk> <s> </s>, then the 256 byte tokens, then pieces."""
    merges = [["t", "h"], ["th", "e"], [SPACE, "the"], ["a", "t"], [SPACE, SPACE]]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    letters = [SPACE, *"Tabcdefhimnorstuw.;<|>/_", "\xe9"]
    words = ["<unk>", "<s>", "</s>", *bytes_, *letters, *("".join(pair) for pair in merges)]
    dummy = {"type": "Prepend", "prepend": SPACE}
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(i, words[i], special=True) for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [dummy, mark]},
        "pre_tokenizer": None,
        "post_processor": template("<s>", 1),
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": fallback,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": merges,
        },
    }
    if metaspace:
        content["normalizer"] = None
        content["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": SPACE,
            "add_prefix_space": True,
            "prepend_scheme": "always",
        }
    return content | changes


def added(token_id, content, *, special, lstrip=False, rstrip=False):
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": lstrip,
        "rstrip": rstrip,
        "normalized": False,
        "special": special,
    }


def template(name, token_id):
    start = {"SpecialToken": {"id": name, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [token_id], "tokens": [name]}},
    }


def make(path, content, **how):
    (path / "tokenizer.json").write_text(json.dumps(content, **how), encoding="utf-8")
    return Tokens.load(path)


KINDS = {
    "byte-level": byte_level,
    "prepend": sentencepiece,
    "metaspace": lambda: sentencepiece(metaspace=True),
    "no fallback": lambda: sentencepiece(fallback=False),
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return {kind: make(tmp_path_factory.mktemp("toy"), KINDS[kind]()) for kind in KINDS}


@pytest.fixture(params=KINDS)
def toy(request, toys):
    return toys[request.param]


@pytest.fixture(scope="module")
def real():
    return Tokens.load(zoo.resolve().path)


def check(vocabulary, data):
    """The promise of `encode`, with nothing of its own code but `bytes_of`."""
    pieces = vocabulary.encode(data)
    assert b"".join(piece.data for piece in pieces) == data
    for piece in pieces:
        assert piece.data
        assert piece.ids is None or vocabulary.bytes_of(piece.ids) == piece.data
    kinds = [piece.ids is None for piece in pieces]
    assert all(left != right for left, right in zip(kinds, kinds[1:], strict=False))
    return pieces


def only(pieces):
    [piece] = pieces
    assert piece.ids is not None
    return piece.ids


@pytest.mark.parametrize("data", CASES.values(), ids=CASES)
def test_every_case_comes_back(toy, data):
    check(toy, data)


def test_each_byte_alone(toy):
    for byte in range(256):
        check(toy, bytes([byte]))


@settings(max_examples=80, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(st.sampled_from([*CASES.values(), b" ", b"\n"]), max_size=9).map(b"".join),
    ),
    kind=st.sampled_from(sorted(KINDS)),
    block_bytes=st.sampled_from([4, 7, 64, 1 << 16]),
)
def test_any_bytes_come_back(data, kind, block_bytes, toys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "BLOCK_BYTES", block_bytes)
        check(toys[kind], data)


def test_byte_level_ids_are_those_of_the_file(tmp_path):
    content = byte_level()
    vocab = content["model"]["vocab"]
    ids = only(make(tmp_path, content).encode(b"the cat the"))
    assert ids == tuple(vocab[word] for word in ("the", "\u0120c", "at", "\u0120the"))


@pytest.mark.parametrize("metaspace", [False, True])
def test_sentencepiece_gets_no_dummy_space(tmp_path, metaspace):
    content = sentencepiece(metaspace=metaspace)
    vocab = content["model"]["vocab"]
    vocabulary = make(tmp_path, content)
    assert only(vocabulary.encode(b"the the")) == (vocab["the"], vocab[f"{SPACE}the"])
    assert only(vocabulary.encode(b" the")) == (vocab[f"{SPACE}the"],)


def test_text_is_not_normalised(tmp_path):
    vocabulary = make(tmp_path, byte_level())
    for text in ("e\u0301", "\xe9", "THE", "\u212b"):
        assert vocabulary.bytes_of(only(vocabulary.encode(text.encode()))) == text.encode()


def test_special_tokens_in_the_text_are_text(toy):
    for name in (b"<|endoftext|>", b"<|im_start|>", b"<s>", b"</s>"):
        for piece in check(toy, b"the" + name + b"cat"):
            assert piece.ids is None or not set(piece.ids) & {0, 1, 2} - _plain(toy)


def _plain(vocabulary):
    return {i for i in range(3) if vocabulary._table[i] is not None}


def test_special_tokens_do_not_disturb_their_neighbours(tmp_path):
    text = b"<|endoftext|>" + b" the" * 5
    ids = only(make(tmp_path, byte_level()).encode(text))
    assert ids == only(make(tmp_path, byte_level(added_tokens=[])).encode(text))


def test_added_tokens_keep_their_ids_and_their_spaces(tmp_path):
    content = byte_level()
    spaces, cat = (token["id"] for token in content["added_tokens"][2:])
    vocabulary = make(tmp_path, content)
    assert spaces in only(vocabulary.encode(b"the    cat"))
    assert cat in only(check(vocabulary, b"the  (cat)  the"))
    assert vocabulary.bytes_of([spaces, cat]) == b"    (cat)"


def without_a_token(vocabulary):
    return bytes(byte for byte in range(256) if bytes([byte]) not in vocabulary.meanings)


def test_bytes_without_a_token_are_set_apart(tmp_path):
    vocabulary = make(tmp_path, byte_level())
    assert without_a_token(vocabulary) == bytes([LACKING])
    pieces = vocabulary.encode(b"the\x16\x16cat\xff")
    assert [piece.data for piece in pieces] == [b"the", b"\x16\x16", b"cat\xff"]
    assert [piece.ids is None for piece in pieces] == [False, True, False]


def test_the_space_mark_is_spelled_by_its_bytes(tmp_path):
    vocabulary = make(tmp_path, sentencepiece())
    assert only(vocabulary.encode(SPACE.encode())) == (3 + 0xE2, 3 + 0x96, 3 + 0x81)
    bare = make(tmp_path, sentencepiece(fallback=False))
    assert bare.encode(SPACE.encode()) == [Piece(SPACE.encode(), None)]


def test_a_failed_proof_costs_only_the_stretch_that_failed(tmp_path):
    content = byte_level()
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"String": "X"}, "behavior": "Removed", "invert": False},
            content["pre_tokenizer"],
        ],
    }
    vocabulary = make(tmp_path, content)
    ids = only(check(vocabulary, b"the cat" * 50 + b"X" + b"the cat" * 50))
    assert ids.count(content["model"]["vocab"]["X"]) == 1
    assert len(ids) < 100 * 3 + 40


def test_blocks_are_cut_in_front_of_spaces(tmp_path, monkeypatch):
    vocabulary = make(tmp_path, byte_level())
    text = b"the cat sat on the mat " * 40
    whole = vocabulary.encode(text)
    monkeypatch.setattr(tokens, "BLOCK_BYTES", 64)
    assert vocabulary.encode(text) == whole
    cjk = "\u732b".encode() * 100
    assert all(block.decode() for block in tokens._blocks(cjk))
    assert b"".join(tokens._blocks(cjk)) == cjk


@pytest.mark.parametrize("length", [63, 64, 65, 127, 128, 129])
@pytest.mark.parametrize("unit", [b"a", b" ", b"\n", b"\x80", b"ab ", "\u20ac".encode()])
def test_sizes_around_a_block(tmp_path, monkeypatch, length, unit):
    monkeypatch.setattr(tokens, "BLOCK_BYTES", 64)
    data = (unit * length)[:length]
    blocks = list(tokens._blocks(data))
    assert b"".join(blocks) == data
    assert all(0 < len(block) <= 64 for block in blocks)


def test_ids_without_bytes_are_refused(toy):
    special = next(i for i, meaning in enumerate(toy._table) if meaning is None)
    for bad in (special, -1, toy.vocab_size, 1 << 40):
        with pytest.raises(Corrupt, match="token 1 of 2"):
            toy.bytes_of([toy.vocab_size - 1, bad])
    assert issubclass(Corrupt, FormatError)
    assert toy.bytes_of([]) == b""


@pytest.mark.parametrize(
    ("post_processor", "bos_id"),
    [
        (None, None),
        ({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}, None),
        (template("<|im_start|>", 77), 77),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template("<s>", 5)]}, 5),
        ({"type": "BertProcessing", "sep": ["</s>", 3], "cls": ["<s>", 2]}, 2),
        ({"type": "RobertaProcessing", "sep": ["</s>", 3], "cls": ["<s>", 0]}, 0),
        ({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}, None),
    ],
)
def test_bos(tmp_path, post_processor, bos_id):
    vocabulary = make(tmp_path, byte_level(post_processor=post_processor))
    assert vocabulary.bos_id == bos_id
    assert bos_id not in only(vocabulary.encode(b"the"))


LAYOUTS = [{}, {"indent": 1}, {"separators": (",", ":")}, {"sort_keys": True}]


@pytest.mark.parametrize("how", LAYOUTS)
def test_layout_of_the_file_does_not_matter(tmp_path, how):
    content = byte_level()
    content["model"]["vocab"]['"merges":['] = 400  # looks like the key, and is a token
    vocabulary = make(tmp_path, content, **how)
    assert vocabulary._table == make(tmp_path, content)._table
    assert vocabulary.vocab_size == 401
    check(vocabulary, b"the cat")


def test_what_follows_the_merges_is_read(tmp_path):
    content = byte_level()
    late = content.pop("added_tokens")
    vocabulary = make(tmp_path, content | {"added_tokens": late, "tail": {"list": [1]}})
    assert vocabulary.bytes_of([late[2]["id"]]) == b"    "


def test_stray_characters_in_a_byte_level_vocabulary(tmp_path):
    content = byte_level()
    content["model"]["vocab"] |= {"a b": 300, "\u732b": 301, "": 302}
    vocabulary = make(tmp_path, content)
    assert vocabulary._table[300:303] == [None, None, None]
    check(vocabulary, "a b \u732b".encode())


def test_unigram_vocabulary(tmp_path):
    words = ["<unk>", SPACE, f"{SPACE}the", *"thecasmo.", "cat"]
    content = sentencepiece(metaspace=True, post_processor=None)
    content["added_tokens"] = content["added_tokens"][:1]
    content["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [[w, -len(w)] for w in words]}
    vocabulary = make(tmp_path, content)
    assert only(check(vocabulary, b"the cat the")).count(words.index(f"{SPACE}the")) == 1
    assert [piece.data for piece in check(vocabulary, b"the?cat") if piece.ids is None] == [b"?"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        "{}",
        '{"model": {}}',
        '{"model": {"vocab": {}, "byte_fallback": true}}',
        '{"model": {"vocab": {"a": -1}, "byte_fallback": true}}',
        '{"model": {"vocab": {"a": 99999999999}, "byte_fallback": true}}',
        '{"model": {"vocab": {"a": "b"}, "byte_fallback": true}}',
        '{"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "##a": 1}}}',
    ],
)
def test_unusable_tokenizers(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelUnavailable, match="cannot be used"):
        Tokens.load(tmp_path)


def test_tokenizer_that_the_library_refuses(tmp_path):
    vocabulary = make(tmp_path, byte_level(pre_tokenizer={"type": "NoSuchStep"}))
    assert vocabulary.bytes_of([1, 2])
    with pytest.raises(ModelUnavailable, match="refuses"):
        vocabulary.encode(b"the")


def test_decoding_does_not_import_the_library(tmp_path):
    make(tmp_path, byte_level())
    code = (
        "import sys, pathlib; from llmzip.lm.tokens import Tokens;"
        "assert Tokens.load(pathlib.Path(sys.argv[1])).bytes_of([1, 2]);"
        "assert not {'tokenizers', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


@pytest.mark.real_model
def test_real_every_case_comes_back(real):
    assert real.vocab_size == 49152
    assert real.bos_id is None
    for data in CASES.values():
        check(real, data)


@pytest.mark.real_model
def test_real_bytes_alone(real):
    missing = bytes.fromhex("04 06 13 14 16 1d c0c1 f1f2 f5f6f7f8f9fafbfcfdfeff")
    assert without_a_token(real) == missing
    for byte in range(256):
        [piece] = check(real, bytes([byte]))
        assert (piece.ids is None) == (byte in missing)


@pytest.mark.real_model
def test_real_special_tokens_are_text(real):
    literal = b"<|endoftext|><|im_start|>user<|im_end|><filename>"
    ids = only(check(real, literal))
    assert min(ids) > 16
    for special in range(17):
        with pytest.raises(Corrupt):
            real.bytes_of([special])


@pytest.mark.real_model
def test_real_ids_are_the_library_s(real):
    from tokenizers import Tokenizer

    text = ("It was late, and the 3 boats of Mr. O'Neill had not come in.\n\n\t" * 2000).rstrip()
    library = Tokenizer.from_file(str(zoo.resolve().path / "tokenizer.json"))
    assert only(real.encode(text.encode())) == tuple(library.encode(text).ids)


@pytest.mark.real_model
@pytest.mark.parametrize("unit", [b" ", b"a", b"\n", b"\x00", b" a"])
def test_real_long_lines_take_linear_time(real, unit):
    real.encode(b"warm")
    started = time.process_time()
    check(real, unit * (200_000 // len(unit)))
    assert time.process_time() - started < 3  # seconds; about 0.15 when measured


@pytest.mark.real_model
def test_real_random_bytes(real):
    data = random.Random(5).randbytes(20_000)
    pieces = check(real, data)
    assert pieces == real.encode(data)
    assert sum(len(piece.data) for piece in pieces if piece.ids is None) < len(data) // 5


@pytest.mark.real_model
@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_real_any_bytes_come_back(real, data):
    check(real, data)
