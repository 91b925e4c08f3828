"""One format, told four times: docs/FORMAT.md, the golden files, `scripts/read_crm.py`, llmzip.

Here what docs/FORMAT.md says is held against the other three. The golden files and their generator
meet in `test_container.py`, the two readers in `test_read_crm.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import crm_chunks
import crm_coding
import pytest
import read_crm

from llmzip import errors
from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.errors import FormatError
from llmzip.store import (
    arith_fields,
    arith_payload,
    cram_fields,
    cram_payload,
    grids,
    header,
    margins,
    model_ref,
    payload,
    residual,
    shared_vectors,
    vectors,
)
from llmzip.store.opening import END_MARK, TOKENS_OF_ANY_FILE, TOKENS_PER_FILE_BYTE
from llmzip.store.payloads import all_optional, all_required
from tests.test_container import DATA, GOLDEN, ROOT

FILES = sorted(path.name for path in DATA.glob("*.crm"))
Row = tuple[str, ...]


def sections() -> dict[str, str]:
    """The text below each heading of docs/FORMAT.md, up to the next heading of any level."""
    text = (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8")
    parts = re.split(r"^#+ (.+)\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tables(text: str) -> list[list[Row]]:
    """The rows of each table, without the names of the columns."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        rows = [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in block.split("\n")]
        rows = [row for row in rows if row != ("",)]
        assert set("".join(rows[1])) == {"-"} and len({len(row) for row in rows}) == 1
        found.append(rows[2:])
    return found


DOC = sections()
WALKS = {
    match[1]: text
    for text in DOC.values()
    if "```\n00000000:" in text and (match := re.search(r"`tests/data/(\w+\.crm)`", text))
}

REQUIRED, OPTIONAL = (
    {int(bit): name for bit, name, _ in tables(DOC[heading])[0]}
    for heading in (
        "Required features (an unknown bit: refuse the file)",
        "Optional features (an unknown bit: ignore it)",
    )
)


def golden(name: str) -> bytes:
    return (DATA / name).read_bytes()


# Golden files


def test_every_golden_file_has_a_generator() -> None:
    script = (DATA / "make_prose.sh").read_text(encoding="utf-8")
    from_real_model = set(re.findall(r'^llmzip compress .* -o "\$to/(\w+\.crm)"', script, re.M))
    assert from_real_model.isdisjoint(GOLDEN)
    assert from_real_model | set(GOLDEN) == set(FILES)
    for name in from_real_model:
        assert f'llmzip compress "$here/{Path(name).stem}.txt"' in script
        assert (DATA / name).with_suffix(".txt").exists()


# Dumps and walks


def dump(data: bytes) -> str:
    """As `xxd` shows it."""
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        pairs = " ".join(row[at : at + 2].hex() for at in range(0, len(row), 2))
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:08x}: {pairs:39}  {text}")
    return "\n".join(lines)


def test_three_files_are_walked_through() -> None:
    assert set(WALKS) == {"v1_tiny.crm", "v1_coded.crm", "v1_arith.crm"}


@pytest.mark.parametrize("name", WALKS)
def test_dumps_are_the_golden_files(name: str) -> None:
    data = golden(name)
    assert f"`tests/data/{name}`, {len(data)} bytes:" in WALKS[name]
    assert re.findall(r"```\n(.+?)\n```", WALKS[name], re.S) == [dump(data)]


@pytest.mark.parametrize("name", WALKS)
def test_each_step_of_a_walk_shows_the_bytes_of_the_golden_file(name: str) -> None:
    data, rows = golden(name), tables(WALKS[name])[0]
    starts = [int(offset, 16) for offset, _, _ in rows]
    assert starts[0] == 0 and starts == sorted(set(starts))
    for (offset, cell, _), start, end in zip(rows, starts, [*starts[1:], len(data)], strict=True):
        match = re.fullmatch(r"`([0-9a-f]{2}(?: (?:[0-9a-f]{2}|\.\.\.))*)`( four times)?", cell)
        assert match and len(offset) == 2, cell
        shown = " ".join([match[1]] * (4 if match[2] else 1))
        first, dots, last = shown.partition(" ... ")
        found = data[start:end].hex(" ")
        assert (found.startswith(first) and found.endswith(last)) if dots else found == shown
        assert not dots or end - start > len(first.split()) + len(last.split())


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_names_the_features_of_its_file(name: str) -> None:
    (row,) = [row for row in tables(WALKS[name])[0] if row[0] == "08"]
    match = re.fullmatch(
        r"version 1; features ([\w, ]+) \(([\d +]+)\); no optional feature", row[2]
    )
    assert match
    names, bits = match[1].split(", "), [int(bit) for bit in match[2].split(" + ")]
    assert [REQUIRED[bit] for bit in bits] == names
    assert golden(name)[8:11] == bytes((1, sum(bits), 0))


# What a walk says of the header's fields, by the features of the file.
TOLD = {
    "model": [
        "the original has {original_bytes} bytes",
        "{xz_bytes} bytes with xz, {zstd_bytes} with zstd",
        "{columns_bytes} bytes of columns, {stored_bytes} of stored bytes",
        "model id `{model_id}`",
        "K = {num_mem}, D = {mem_dim}",
    ],
    "start": ["start token {start_id}"],
    "crammed": ["at most {context_tokens} tokens of context", "{patch_bytes} bytes of patches"],
    "coded": [
        "{bits} bits asked for",
        "{vector_bytes} bytes of vectors",
        "symbols from -{max_symbol} to {max_symbol}",
        "steps from {first_step} x 32",
    ],
    "arith": [
        "recipe {recipe}",
        "lanes see the first {prefix_tokens} tokens of their segment, and remember {window_tokens}",
        "guard 2^(({guard}-256)/16)",
        "{vector_bytes} bytes of vectors",
        "symbols from -{max_symbol} to {max_symbol}",
        "steps from {first_step} x 32",
        "{stream_bytes} bytes of streams",
    ],
}
LANES = {1: "one lane", 2: "two lanes"}


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_tells_the_fields_of_its_file(name: str) -> None:
    head, size = read_crm.read(golden(name))["header"], golden(name)[11]
    meanings = "\n".join(meaning for _, _, meaning in tables(WALKS[name])[0])
    assert f"the header has {size} bytes: 0c to {11 + size:02x}\n" in meanings
    for phrase in (phrase for feature, told in TOLD.items() if head[feature] for phrase in told):
        assert re.search(rf"\b{re.escape(phrase.format_map(head))}(?!\w)", meanings), phrase


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_tells_the_runs_and_segments_of_its_file(name: str) -> None:
    found = read_crm.read(golden(name))
    meanings = [meaning for _, _, meaning in tables(WALKS[name])[0]]
    if found["header"]["arith"]:
        (first, size), *others = ((next(iter(run)), run["num_bytes"]) for run in found["runs"])
        told = [f"{first} run of {size} bytes"] + [f"{kind} run of {n}" for kind, n in others]
        assert ", ".join(told) in meanings
    else:
        chunks = "{num_chunks} chunks, {num_tokens} tokens, ".format_map(found["runs"][0])
        assert f"crammed run: {chunks}{found['runs'][0]['num_bytes']} bytes" in meanings
        assert f"stored run: {found['runs'][1]['num_bytes']} bytes" in meanings
    for number, segment in enumerate(found.get("segments", [])):
        sizes = "{num_tokens} tokens, {num_bytes} bytes".format_map(segment)
        stream = f"a stream of {segment['stream_bytes']} bytes"
        assert f"segment {number}: {sizes}, {LANES[segment['num_lanes']]}, {stream}" in meanings


def test_the_walk_of_the_coded_vectors_has_the_counts_and_symbols_of_the_file() -> None:
    found = read_crm.read(golden("v1_coded.crm"))
    head, chunks = found["header"], found["chunks"]
    largest, first_step = head["max_symbol"], head["first_step"]
    symbols = crm_chunks.first_counts(head["prior"], largest)
    assert f"first counts {', '.join(map(str, symbols))} |" in WALKS["v1_coded.crm"]
    steps = [32 // (head["step_span"] + 1)] * (head["step_span"] + 1)
    expected = []
    for number, chunk in enumerate(chunks):
        for vector, place in zip(chunk["vectors"], ("first", "second"), strict=False):
            step = vector["step"] // 32 - first_step
            values = [symbol + largest for symbol in vector["symbols"]]
            cells = (f"{' '.join(map(str, steps))}: {step}", " ".join(map(str, symbols)))
            digits = " ".join(map(str, values))
            expected.append((f"chunk {number}, {place}", cells[0], f"{cells[1]}: {digits}"))
            steps[step] += 32
            for value in values:
                symbols[value] += 32
    assert tables(WALKS["v1_coded.crm"])[1] == expected


def test_the_walk_of_the_coded_patches_has_the_positions_of_the_file() -> None:
    found = read_crm.read(golden("v1_coded.crm"))
    patches, chunks = found["header"]["num_patches"], found["chunks"]
    tokens = sum(chunk["num_tokens"] for chunk in chunks if not chunk["literal"])
    assert f"the stream of patches; {tokens} tokens are in chunks" in WALKS["v1_coded.crm"]
    rows = tables(WALKS["v1_coded.crm"])[2]
    for number, (chunk, row) in enumerate(zip(chunks, rows, strict=True)):
        positions = {position for position, _ in chunk["patches"]}
        flags = " ".join(str(int(at in positions)) for at in range(chunk["num_tokens"]))
        told = "literal" if chunk["literal"] else f"{tokens - patches} {patches}: {flags}"
        assert row[:2] == (str(number), told)
        if not chunk["literal"]:
            tokens, patches = tokens - chunk["num_tokens"], patches - len(positions)


# Features


def test_feature_bits() -> None:
    ours = {
        "model": payload.HAS_MODEL,
        "columns zstd": header.COLUMNS_ZSTD,
        "stored zstd": header.STORED_ZSTD,
        "start": payload.HAS_START,
        "literal": cram_fields.HAS_LITERAL,
        "coded": cram_fields.HAS_CODED,
        "arith": arith_fields.HAS_ARITH,
        "signs": cram_fields.HAS_SIGNS,
        "streams": cram_fields.HAS_STREAMS,
        "number": payload.HAS_NUMBER,
        "shared": cram_fields.HAS_SHARED,
    }
    assert REQUIRED == {bit: name for name, bit in ours.items()}
    assert header._REQUIRED | all_required() == sum(ours.values()) == 2047
    assert header._REQUIRED & all_required() == 0
    known = {
        cram_payload.BF16_SAFE: "bf16 safe",
        header.HAS_SUFFIX: "suffix",
        header.HAS_SETTINGS: "settings",
    }
    assert known == OPTIONAL and header._OPTIONAL | all_optional() == sum(known) == 7
    for names, known in ((read_crm.REQUIRED, REQUIRED), (read_crm.OPTIONAL, OPTIONAL)):
        theirs = {1 << place: name.replace("_", " ") for place, name in enumerate(names)}
        assert theirs == {bit: name for bit, name in known.items() if name}


# Fields


def described(rows: list[Row]) -> list[Row]:
    """Name, type and content of each field of a table, where a row may be of several fields."""
    found = []
    for names, kinds, content in rows:
        each = re.sub(r" \(\w\)", "", names).split(", ")
        types = kinds.split(", ") if len(each) > 1 else [kinds]
        if kinds.endswith(" each"):
            types = [kinds.removesuffix(" each")] * len(each)
        found += [(name, kind, content) for name, kind in zip(each, types, strict=True)]
    return found


def read_by(table: str, *groups: str) -> list[tuple[str, str, str, list[str]]]:
    """Group, name, type and limits of each field of a table of `read_crm`."""
    found = []
    for line in table.strip().splitlines():
        group, rows = line.split(":")
        for row in rows.split(",") if group.strip() in groups else []:
            name, kind, *limits = row.split()
            found.append((group.strip(), name, kind, limits))
    return found


OF_CHUNKS = ("number", "spelled", "crammed", "start", "literal")
OF_CODED = ("grids", "signs", "coded", "streams", "shared")
OF_ARITH = ("start", "arith", "arith num_mem")
TABLES = {
    "all": (tables(DOC["Header"])[0], read_by(read_crm.HEADER, "")),
    "model": (tables(DOC["Header"])[1], read_by(read_crm.HEADER, *OF_CHUNKS)),
    "coded": (tables(DOC["Header"])[2], read_by(read_crm.HEADER, *OF_CODED)),
    "arith": (tables(DOC["Header fields"])[0], read_by(read_crm.HEADER, *OF_ARITH)),
    "segment": (tables(DOC["Columns of arith files"])[0], read_by(read_crm.SEGMENT, "")),
}
TYPES = {"name": "varint n, n bytes", "revision": "varint r"}
CONDITIONS = {
    "number": "only with the feature *number*",
    "spelled": "not with the feature *number*",
    "start": "only with the feature *start*",
    "literal": "only with the feature *literal*",
    "arith num_mem": "only if K is not 0",
    "grids": "not with the feature *signs*",
    "signs": "only with the feature *signs*",
    "streams": "only with the feature *streams*",
    "shared": "only with the feature *shared*",
}


@pytest.mark.parametrize("table", TABLES)
def test_fields_are_read_in_the_order_of_their_table(table: str) -> None:
    rows, read = TABLES[table]
    told = described(rows)
    assert [(name, kind) for name, kind, _ in told] == [
        (name, TYPES.get(kind, kind)) for _, name, kind, _ in read
    ]
    for (name, _, content), (group, *_) in zip(told, read, strict=True):
        for condition in set(CONDITIONS.values()):
            assert (condition in content) == (CONDITIONS.get(group) == condition), name


def test_no_field_is_read_that_is_in_no_table() -> None:
    groups = {line.split(":")[0].strip() for line in read_crm.HEADER.strip().splitlines()}
    assert groups == {"", "suffix", "settings", *OF_CHUNKS, *OF_CODED, *OF_ARITH}
    last = [name for name, _, _ in described(tables(DOC["Header"])[3])]
    assert last == ["suffix", "settings_check"]


LAST_ID = residual.MAX_TOKEN_ID
LIMITS = [
    ("model", "num_mem", "1 to 1024", [1, vectors.MAX_NUM_MEM]),
    ("model", "mem_dim", "1 to 65536", [1, vectors.MAX_MEM_DIM]),
    ("model", "bits", "1 to 8", [vectors.CODED_BITS[0], vectors.CODED_BITS[-1]]),
    ("model", "num_literal", "1 to num_chunks", [1]),
    ("model", "context_tokens", "below 2^31", [0, cram_payload.MAX_CONTEXT_TOKENS]),
    ("model", "start_id", "below 2^31", [0, LAST_ID]),
    ("coded", "max_symbol", "at least 1; at most 1023", [1, vectors.MAX_SYMBOL]),
    ("coded", "first_step", "at least 4", [vectors.MIN_STEP // vectors.STEP_UNIT]),
    (
        "coded",
        "step",
        "4 to 1019",
        [vectors.MIN_STEP // vectors.STEP_UNIT, vectors.MAX_STEP // vectors.STEP_UNIT],
    ),
    ("coded", "num_shared", "1 to num_chunks", [1]),
    ("coded", "shared_mem", "1 to 64", [1, shared_vectors.MAX_SHARED_MEM]),
    ("arith", "start_id", "below 2^31", [0, LAST_ID]),
    ("arith", "num_segments", "at least 1", [1]),
    ("arith", "prefix_tokens", "0 to 65535", [0, arith_payload.MAX_PREFIX_TOKENS]),
    ("arith", "window_tokens", "1 to 2^24", [1, arith_payload.MAX_WINDOW_TOKENS]),
    ("arith", "guard", "c = 1 to 255", [1, 255]),
    ("arith", "num_mem", "0 to 64", [0, shared_vectors.MAX_SHARED_MEM]),
    ("arith", "mem_dim", "1 to 65536", [1, vectors.MAX_MEM_DIM]),
    ("segment", "num_tokens", "1 to 2^24", [1, arith_payload.MAX_SEGMENT_TOKENS]),
    ("segment", "num_lanes", "1 to 64", [1, arith_payload.MAX_LANES]),
    ("segment", "stream_bytes", "at least 1", [arith_payload.least_stream_bytes(1)]),
]


def numbers(text: str) -> list[int]:
    return [int(base) ** int(power or 1) for base, power in re.findall(r"(\d+)(?:\^(\d+))?", text)]


@pytest.mark.parametrize("table, name, phrase, limits", LIMITS)
def test_limits_of_a_field(table: str, name: str, phrase: str, limits: list[int]) -> None:
    rows, read = TABLES[table]
    (content,) = [content for told, _, content in described(rows) if told == name]
    assert re.search(rf"(?<!\w){re.escape(phrase)}(?![\w^])", content)
    below = phrase.startswith("below")
    assert ([0, numbers(phrase)[0] - 1] if below else numbers(phrase)) == limits
    (theirs,) = [theirs for _, other, _, theirs in read if other == name]
    if name == "bits":  # what raw files have comes on top
        assert f"{vectors.RAW_BITS} in raw files" in content and theirs[1] == str(vectors.RAW_BITS)
        limits = limits[:1]
    assert [int(limit) for limit in theirs[: len(limits)]] == limits


def test_limits_of_several_fields() -> None:
    most_step = vectors.MAX_STEP // vectors.STEP_UNIT
    content = {name: content for name, _, content in described(TABLES["coded"][0])}
    assert f"the two together at most {most_step}" in content["step_span"]
    fields = {name: limits for _, name, _, limits in TABLES["coded"][1]}
    assert fields["first_step"][1] == str(most_step)
    assert int(fields["first_step"][0]) + int(fields["step_span"][1]) == most_step
    content = {name: content for name, _, content in described(TABLES["arith"][0])}
    assert content["recipe"].startswith(f"{arith_fields.RECIPE}: ")
    breaks = (arith_payload.WRAP_NONE, arith_payload.WRAP_LF, arith_payload.WRAP_CRLF)
    assert content["wrap"].endswith("{} none, {} LF, {} CR LF".format(*breaks))
    fields = {name: limits for _, name, _, limits in TABLES["arith"][1]}
    assert fields["recipe"] == [str(arith_fields.RECIPE)] * 2 and fields["wrap"] == [
        "0",
        str(breaks[-1]),
    ]
    assert fields["guard"] == ["1", "255"]


def test_figures_of_the_fields() -> None:
    every = [field for rows, _ in TABLES.values() for field in described(rows)]
    for name, phrase in (
        ("required_more", "required features of 256 and above, div 256"),
        ("runs", "2 x number of runs + 1 if the first one is stored"),
        ("model_id", f"UTF-8, 1 to {model_ref.MAX_NAME_BYTES} bytes"),
        ("revision", f"0: none. 1: a commit, {model_ref.COMMIT_BYTES} bytes follow."),
        ("revision", f"Else: r - 1 bytes of UTF-8 follow (1 to {model_ref.MAX_NAME_BYTES})"),
        ("margin", "0 exactly if every token is patched"),
        ("first_step", f"smallest step div {vectors.STEP_UNIT}"),
        ("step_span", f"largest step div {vectors.STEP_UNIT}"),
        ("vector_bytes", f"at least K x ceil(D / {grids.DIMENSIONS_PER_BYTE})"),
        ("num_patches", "at most 8 x patch_bytes"),
        ("stream_bytes", f"at least n div {arith_payload.TOKENS_PER_STREAM_BYTE}"),
    ):
        assert any(phrase in content for told, _, content in every if told == name), phrase
    for name, value in (
        ("margin", margins.margin_value),
        ("guard", arith_payload.guard_value),
    ):
        (content,) = [content for told, _, content in every if told == name]
        match = re.search(r"c = 1 to 255: .* 2\^\(\(c-(\d+)\)/(\d+)\)", content)
        assert match
        for code in (1, 100, 255):
            assert value(code) == 2 ** ((code - int(match[1])) / int(match[2]))


def test_layout() -> None:
    told = [(part, size) for part, size, _ in tables(DOC["Layout"])[0]]
    assert told == [
        ("magic", str(len(header.MAGIC))),
        ("version", "u8"),
        ("required features", "u8"),
        ("optional features", "u8"),
        ("header size", "varint"),
        ("header", ""),
        ("header CRC", str(header.CRC_BYTES)),
        ("columns", "`columns_bytes`"),
        ("shared", "`shared_bytes`"),
        ("vectors", "computed, or `vector_bytes`"),
        ("patches", "`patch_bytes`"),
        ("stored", "`stored_bytes`"),
        ("body CRC", str(header.CRC_BYTES)),
        ("end mark", str(len(END_MARK))),
    ]
    planes = re.findall(
        r"`(\w+_bytes)`", "\n".join("".join(row) for row in tables(DOC["Layout"])[0])
    )
    assert tuple(planes) == read_crm.PLANES


def test_limits_of_the_format() -> None:
    limits = dict(tables(DOC["Limits"])[0])
    assert len(limits) == 9
    assert limits["header"] == f"{header.MAX_HEADER_BYTES >> 20} MiB"
    assert numbers(DOC["Layout"].split("header size | varint |")[1])[0] == header.MAX_HEADER_BYTES
    assert limits["tokens of a chunk"] == f"1 to {cram_payload.MAX_CHUNK_TOKENS}"
    assert numbers(limits["token id, start_id"]) == [LAST_ID + 1] == [crm_coding.MAX_ID + 1]
    assert limits["original"].endswith(
        f"{DEFAULT_MAX_OUTPUT_BYTES >> 30} GiB unless told otherwise)"
    )
    assert limits["bytes of a chunk"] == "at least one per token"
    assert limits["bytes of a run"] == "at least 1" and read_by(read_crm.RUN, "")[0][3] == ["1"]
    work = numbers(limits["tokens of all chunks or segments"])
    assert work == [TOKENS_OF_ANY_FILE, TOKENS_PER_FILE_BYTE]
    least, most, per_byte, more = numbers(limits["tokens of a segment of an arith file"])
    assert (least, most) == (1, arith_payload.MAX_SEGMENT_TOKENS)
    assert per_byte == arith_payload.TOKENS_PER_STREAM_BYTE and more == per_byte - 1


def test_magic_and_end_mark() -> None:
    layout = {part: content for part, _, content in tables(DOC["Layout"])[0]}
    for part, ours, theirs in (
        ("magic", header.MAGIC, read_crm.MAGIC),
        ("end mark", END_MARK, read_crm.END_MARK),
    ):
        assert bytes.fromhex(layout[part].strip("`")) == ours == theirs
    assert layout["version"] == str(header.VERSION)


# Errors


def test_errors_and_their_exit_codes() -> None:
    rows = tables(DOC["Errors"])[0]
    assert {name: int(code) for name, code, _ in rows} == {
        error.__name__: error.exit_code
        for error in (*FormatError.__subclasses__(), errors.LimitExceeded)
    }
    assert len(rows) == 5
