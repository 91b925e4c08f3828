"""Reference parser for `.crm` format v1: written from docs/FORMAT.md, standard library only.

`python scripts/crm_parse.py FILE.crm` prints the file's structure as JSON, or one line and exit
code 1. Shares no code with llmzip, so that a test can hold the two against each other. Planes in
zstd are unpacked where Python has zstd (3.14), else only their sizes are shown. Coded planes are
decoded, but not encoded again to see whether they are in their one right form. Streams of arith
files are found, not decoded: that takes the model.
"""

from __future__ import annotations

import bisect
import itertools
import json
import sys
import zlib

try:
    from compression import zstd
except ImportError:
    zstd = None

MAGIC = bytes.fromhex("89 43 52 4D 0D 0A 1A 0A")
END_MARK = b"MRC\n"


class Bad(Exception):
    """The file breaks a rule of the format."""


def need(condition, message):
    if not condition:
        raise Bad(message)


class Reader:
    def __init__(self, data, start, end):
        self.data, self.at, self.end = data, start, end

    def take(self, count):
        need(count <= self.end - self.at, f"{count} bytes expected at {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                need(byte or not shift, f"padded varint before {self.at}")
                return value
            shift += 7
            need(shift < 63, f"varint too long before {self.at}")

    def rice(self, count):
        """Numbers in whole bits: how often k zeros, ones, then the low k bits of each."""
        if not count:
            return []
        low_bits, number, place = (
            self.byte(),
            int.from_bytes(self.data[self.at : self.end], "little"),
            0,
        )
        need(low_bits <= 62, "too many low bits")
        highs = []
        for _ in range(count):
            rest = number >> place
            need(rest, "missing numbers")
            highs.append((rest & -rest).bit_length() - 1)
            place += highs[-1] + 1
        values = []
        for high in highs:
            values.append(high << low_bits | number >> place & (1 << low_bits) - 1)
            place += low_bits
        self.take((place + 7) // 8)
        return values

    def bitmap(self, count, ones):
        number = int.from_bytes(self.take((count + 7) // 8), "little")
        need(number >> count == 0 and bin(number).count("1") == ones, "bad bitmap")
        return [bool(number >> index & 1) for index in range(count)]


def read_header(data):
    """The fields of the header, and where the body starts."""
    need(data[:8] == MAGIC, "not a .crm file")
    r = Reader(data, 8, len(data))
    version, required, optional = r.byte(), r.byte(), r.byte()
    need(version == 1 and required < 128, "unsupported version or feature")
    size = r.varint()
    need(size <= 1 << 20, "header too large")
    end = r.at + size
    need(end + 4 <= len(data), "truncated header")
    crc = int.from_bytes(data[end : end + 4], "little")
    need(crc == zlib.crc32(data[:end]), "header checksum")
    r.end = end
    need(r.byte() == 0, "reserved byte in use")
    need(required & 1 or not (required & 120 or optional & 1), "features of a model, but no model")
    need(not required & 64 or not (required & 48 or optional & 1), "arith and crammed features")
    head = {"version": version, "required": required, "optional": optional}
    head["original_bytes"] = r.varint()
    head["original_hash"] = r.take(32).hex()
    head["xz_bytes"], head["zstd_bytes"], runs = r.varint(), r.varint(), r.varint()
    head["num_runs"], head["first_is_stored"] = runs // 2, bool(runs % 2)
    head["columns_bytes"], head["stored_bytes"] = r.varint(), r.varint()
    for name in ("num_chunks", "num_literal", "vector_bytes", "patch_bytes", "stream_bytes"):
        head[name] = 0
    if required & 1:
        head["model_id"] = r.take(r.varint()).decode()
        code = r.varint()
        head["revision"] = r.take(20).hex() if code == 1 else r.take(max(code - 1, 0)).decode()
        head["model_digest"] = r.take(16).hex()
        (read_arith_fields if required & 64 else read_cram_fields)(r, head)
    need(r.at == end or optional > 1, "unused bytes in the header")
    return head, end + 4


def read_start(r, head):
    head["start_id"] = r.varint() if head["required"] & 8 else None
    need((head["start_id"] or 0) < 1 << 31, "start token")


def read_grid_fields(r, head):
    for name in ("vector_bytes", "max_symbol", "first_step", "step_span"):
        head[name] = r.varint()
    head["prior"] = r.byte()
    need(1 <= head["max_symbol"] <= 1023, "largest symbol")
    need(4 <= head["first_step"] <= head["first_step"] + head["step_span"] <= 1019, "steps")


def read_cram_fields(r, head):
    required = head["required"]
    for name in ("num_mem", "mem_dim", "bits", "context_tokens"):
        head[name] = r.varint()
    need(head["bits"] in (1, 2, 3, 4, 5, 6, 7, 8, 16), "unsupported precision")
    need((head["bits"] < 16) == bool(required & 32), "precision and features")
    read_start(r, head)
    head["margin_code"] = r.byte()
    head["num_chunks"] = r.varint()
    head["num_literal"] = r.varint() if required & 16 else 0
    head["patch_bytes"] = r.varint()
    vectors = head["num_chunks"] - head["num_literal"]
    head["vector_bytes"] = vectors * head["num_mem"] * head["mem_dim"] * 2
    counted = head["patch_bytes"]
    if required & 32:
        read_grid_fields(r, head)
        head["num_patches"], head["num_patched"] = r.varint(), r.varint()
        least = vectors * head["num_mem"] * ((head["mem_dim"] + 63) // 64)
        need(least <= head["vector_bytes"], "vector bytes")
        counted = head["columns_bytes"]
    need(0 <= vectors and head["num_chunks"] <= counted, "chunk counts")


def read_arith_fields(r, head):
    read_start(r, head)
    need(r.varint() == 1, "unsupported recipe")
    for name in ("num_segments", "prefix_tokens", "window_tokens"):
        head[name] = r.varint()
    head["guard_code"], head["wrap"], head["num_mem"] = r.byte(), r.byte(), r.varint()
    need(head["prefix_tokens"] <= 65535 and 1 <= head["window_tokens"] <= 1 << 24, "window")
    need(head["guard_code"] and head["wrap"] <= 2 and head["num_mem"] <= 64, "prediction")
    head["mem_dim"] = 0
    if head["num_mem"]:
        head["mem_dim"] = r.varint()
        need(1 <= head["mem_dim"] <= 65536, "dimensions")
        read_grid_fields(r, head)
        least = head["num_mem"] * ((head["mem_dim"] + 63) // 64)
        need(least <= head["vector_bytes"], "vector bytes")
    head["stream_bytes"] = r.varint()
    need(1 <= head["num_segments"] <= head["stream_bytes"], "segments")
    need(head["num_segments"] + head["num_runs"] <= head["columns_bytes"], "column bytes")


def read_differences(r, head, crams):
    """One number for each chunk: as varints, or packed without the last one of each run."""
    sizes = [len(run["chunks"]) for run in crams]
    if not head["required"] & 32:
        codes = [r.varint() for _ in range(sum(sizes))]
    else:
        packed = iter(r.rice(sum(sizes) - len(sizes)))
        codes = [next(packed) if left else 0 for n in sizes for left in reversed(range(n))]
    return iter([-(code + 1) // 2 if code % 2 else code // 2 for code in codes])


def read_columns(r, head):
    """Runs with their chunks, as far as the columns tell."""
    runs = []
    for index in range(head["num_runs"]):
        if (index % 2 == 1) != head["first_is_stored"]:
            runs.append({"kind": "stored", "num_bytes": r.varint(), "chunks": []})
            continue
        num_chunks, num_tokens, num_bytes = r.varint(), r.varint(), r.varint()
        need(1 <= num_chunks <= head["num_chunks"], "chunks of a run")
        run = {"kind": "cram", "num_bytes": num_bytes, "num_tokens": num_tokens}
        runs.append(run | {"chunks": [{} for _ in range(num_chunks)]})
    crams = [run for run in runs if run["chunks"]]
    chunks = [chunk for run in crams for chunk in run["chunks"]]
    need(len(chunks) == head["num_chunks"], "chunks do not add up")
    need(sum(run["num_bytes"] for run in runs) == head["original_bytes"], "bytes do not add up")
    num_segments = r.varint() if crams else 0
    differences = read_differences(r, head, crams)
    for run in crams:
        left = run["num_tokens"]
        for index, chunk in enumerate(run["chunks"]):
            chunk["num_tokens"] = left // (len(run["chunks"]) - index) + next(differences)
            left -= chunk["num_tokens"]
            need(1 <= chunk["num_tokens"] <= 65535 and left >= 0, "token count")
        need(left == 0, "tokens do not add up")
    differences = read_differences(r, head, crams)
    for run in crams:
        tokens, left = run["num_tokens"], run["num_bytes"]
        for chunk in run["chunks"]:
            chunk["num_bytes"] = left * chunk["num_tokens"] // tokens + next(differences)
            tokens -= chunk["num_tokens"]
            left -= chunk["num_bytes"]
            need(chunk["num_bytes"] >= chunk["num_tokens"] and left >= tokens, "byte count")
        need(left == 0, "bytes do not add up")
    for chunk in chunks:
        chunk["check"] = int.from_bytes(r.take(2), "little")
    starts = [index == 0 for run in crams for index in range(len(run["chunks"]))]
    if len(crams) < num_segments:
        every = num_segments == len(chunks)
        starts = [True] * len(chunks) if every else r.bitmap(len(chunks), num_segments)
    marks = r.bitmap(len(chunks), head["num_literal"]) if head["num_literal"] else []
    for chunk, start, literal in zip(chunks, starts, marks or [False] * len(chunks), strict=True):
        chunk["starts_segment"], chunk["literal"] = start, literal
    need(r.at == r.end, "unused bytes in the columns")
    return runs


def read_arith_columns(r, head):
    """Runs and segments."""
    runs, segments = [], []
    for index in range(head["num_runs"]):
        is_stored = (index % 2 == 0) == head["first_is_stored"]
        kind = "stored" if is_stored else "arith"
        runs.append({"kind": kind, "num_bytes": r.varint(), "chunks": []})
        need(runs[-1]["num_bytes"], "empty run")
    for _ in range(head["num_segments"]):
        segments.append(
            {name: r.varint() for name in ("num_tokens", "num_bytes", "num_lanes", "stream_bytes")}
        )
        segments[-1]["check"] = int.from_bytes(r.take(4), "little")
        tokens, size, lanes, stream, _ = segments[-1].values()
        need(1 <= tokens <= min(size, 1 << 24) and 1 <= lanes <= min(64, tokens), "segment")
        need(max(1, tokens // 4096) <= stream, "stream too short")
    need(r.at == r.end, "unused bytes in the columns")
    text = sum(run["num_bytes"] for run in runs if run["kind"] == "arith")
    need(text == sum(segment["num_bytes"] for segment in segments), "bytes do not add up")
    need(sum(run["num_bytes"] for run in runs) == head["original_bytes"], "bytes do not add up")
    streams = sum(segment["stream_bytes"] for segment in segments)
    need(streams == head["stream_bytes"], "streams do not add up")
    return runs, segments


def read_patches(r, chunks):
    for chunk in chunks:
        positions = list(range(chunk["num_tokens"]))
        if not chunk["literal"]:
            count, position = r.varint(), -1
            need(count <= chunk["num_tokens"], "patch count")
            positions = []
            for _ in range(count):
                position += 1 + r.varint()
                positions.append(position)
            need(position < chunk["num_tokens"], "patch position")
        chunk["patches"] = [[position, r.varint()] for position in positions]
    need(r.at == r.end, "unused bytes among the patches")


class RangeDecoder:
    """Symbols from a stream. The bytes after its end are zeros."""

    def __init__(self, data):
        self.bytes = itertools.chain(data, itertools.repeat(0))
        self.point, self.width = self.next_bytes(8), (1 << 64) - 1

    def next_bytes(self, count):
        return int.from_bytes(bytes(itertools.islice(self.bytes, count)), "big")

    def quantile(self):
        found = self.point // (self.width >> 24)
        need(found < 1 << 24, "damaged stream")
        return found

    def narrow(self, start, end):
        scale = self.width >> 24
        self.point, self.width = self.point - scale * start, scale * (end - start)
        if self.width < 1 << 32:
            self.point, self.width = self.point << 32 | self.next_bytes(4), self.width << 32

    def symbols(self, counts, amount):
        """Symbols under fixed counts, which are then brought up to date."""
        if not amount:
            return []
        total, size = sum(counts), len(counts)
        below = itertools.accumulate(counts, initial=0)
        starts = [i + c * ((1 << 24) - size) // total for i, c in enumerate(below)]
        found = []
        for _ in range(amount):
            symbol = bisect.bisect_right(starts, self.quantile()) - 1
            self.narrow(starts[symbol], starts[symbol + 1])
            found.append(symbol)
        for symbol in found:
            counts[symbol] += 32
        while sum(counts) > 1 << 21:
            counts[:] = [(count + 1) // 2 for count in counts]
        return found

    def uniform(self, size):
        unit = (1 << 24) // size
        symbol = min(self.quantile() // unit, size - 1)
        self.narrow(symbol * unit, 1 << 24 if symbol == size - 1 else (symbol + 1) * unit)
        return symbol

    def numbers(self, counts, amount):
        """Numbers by size class, then their bits above the lowest 16, then those."""
        classes = self.symbols(counts, amount)
        values = [1 << size for size in classes]
        for shift, most in ((16, 15), (0, 16)):
            for index, size in enumerate(classes):
                width = min(size - shift, most)
                if width > 0:
                    values[index] += self.uniform(1 << width) << shift
        return [value - 1 for value in values]


def prior_counts(prior, largest):
    ratio = (1 << 53) // ((1 << 21) + ((4 + prior % 4) << prior % 128 // 4))
    falling = ratio * ratio >> 32 if prior < 128 else 1 << 32
    weights = [1 << 32]
    for _ in range(largest):
        weights.append(weights[-1] * ratio >> 32)
        ratio = ratio * falling >> 32
    total = 2 * sum(weights) - weights[0]
    share = 512 * (2 * largest + 1)
    return [max(1, share * weights[abs(s)] // total) for s in range(-largest, largest + 1)]


def read_coded_vectors(data, head, chunks):
    decoder, largest = RangeDecoder(data), head["max_symbol"]
    symbols = prior_counts(head["prior"], largest)
    num_steps = head["step_span"] + 1
    steps = [max(1, 32 // num_steps)] * num_steps
    for chunk in chunks:
        if chunk["literal"]:
            continue
        chunk["vectors"] = []
        for _ in range(head["num_mem"]):
            step = head["first_step"] + (decoder.symbols(steps, 1)[0] if num_steps > 1 else 0)
            values = [symbol - largest for symbol in decoder.symbols(symbols, head["mem_dim"])]
            chunk["vectors"].append({"step": 32 * step, "symbols": values})


def read_coded_patches(data, head, chunks):
    decoder = RangeDecoder(data)
    kinds = [224, 16, 16] + [max(2, 256 // (skip * (skip + 1))) for skip in range(1, 21)]
    escapes, skips, sizes = [16] * 8, [16] * 8, [16] * 8
    ids = [32] * 16 + [8] * 2 + [2] * 14
    tokens_left = sum(chunk["num_tokens"] for chunk in chunks if not chunk["literal"])
    left = head["num_patches"]
    need(left <= tokens_left, "patch count")
    for chunk in chunks:
        length = chunk["num_tokens"]
        if chunk["literal"]:
            chunk["patches"] = [[at, id] for at, id in enumerate(decoder.numbers(ids, length))]
            continue
        flags = decoder.symbols([tokens_left - left, left], length) if left else []
        positions = [position for position, flag in enumerate(flags) if flag]
        tokens_left, left = tokens_left - length, left - len(positions)
        need(0 <= left <= tokens_left, "patch count")
        found = decoder.symbols(kinds, len(positions))
        values = {2: [[21 + skip, 1, 0] for skip in decoder.numbers(escapes, found.count(2))]}
        groups = [[skip] for skip in decoder.numbers(skips, found.count(1))]
        for group, size in zip(groups, decoder.numbers(sizes, len(groups)), strict=True):
            group.append(size + 2)
        for group in groups:
            group.append(decoder.uniform(group[1]))
        values[1], values[0] = groups, decoder.numbers(ids, found.count(0))
        sources = {kind: iter(numbers) for kind, numbers in values.items()}
        tokens = [[kind - 2, 1, 0] if kind > 2 else next(sources[kind]) for kind in found]
        for token in tokens:
            need(isinstance(token, int) or token[0] + token[1] <= 256, "rank")
        chunk["patches"] = [[at, token] for at, token in zip(positions, tokens, strict=True)]


def add_arith(data, columns, result):
    """Runs, segments with the places of their streams, and the shared vectors."""
    head, planes = result["header"], result["planes"]
    result["runs"], result["segments"] = read_arith_columns(columns, head)
    at = planes["streams"]["offset"]
    for segment in result["segments"]:
        segment["stream_offset"] = at
        at += segment["stream_bytes"]
    vectors, shared = planes["vectors"]["offset"], {"literal": False, "vectors": []}
    if head["num_mem"]:
        read_coded_vectors(data[vectors : planes["streams"]["offset"]], head, [shared])
    result["shared_vectors"] = shared["vectors"]


def parse(data):
    head, at = read_header(data)
    planes = {}
    for name, size in (("columns", "columns_bytes"), ("vectors", "vector_bytes"),
                       ("patches", "patch_bytes"), ("streams", "stream_bytes"),
                       ("stored", "stored_bytes")):  # fmt: skip
        planes[name] = {"offset": at, "bytes": head[size]}
        at += head[size]
    need(len(data) == at + 8, f"{len(data)} bytes, the header says {at + 8}")
    start = planes["columns"]["offset"]
    need(zlib.crc32(data[start:at]) == int.from_bytes(data[at : at + 4], "little"), "body checksum")
    need(data[-4:] == END_MARK, "end mark")
    result = {"file_bytes": len(data), "header": head, "planes": planes, "runs": None}
    columns = Reader(data, start, planes["vectors"]["offset"])
    if head["required"] & 2:
        if zstd is None:
            return result
        unpacked = zstd.decompress(columns.take(head["columns_bytes"]))
        columns = Reader(unpacked, 0, len(unpacked))
    if head["required"] & 64:
        add_arith(data, columns, result)
        return result
    result["runs"] = runs = read_columns(columns, head)
    chunks = [chunk for run in runs for chunk in run["chunks"]]
    if head["required"] & 32:
        vectors, patches, stored = (planes[n]["offset"] for n in ("vectors", "patches", "stored"))
        read_coded_vectors(data[vectors:patches], head, chunks)
        read_coded_patches(data[patches:stored], head, chunks)
        return result
    read_patches(Reader(data, planes["patches"]["offset"], planes["stored"]["offset"]), chunks)
    at = planes["vectors"]["offset"]
    for chunk in chunks:
        chunk["vector_offset"] = None if chunk["literal"] else at
        at += 0 if chunk["literal"] else 2 * head["num_mem"] * head["mem_dim"]
    return result


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: crm_parse.py FILE.crm")
    try:
        with open(sys.argv[1], "rb") as file:
            print(json.dumps(parse(file.read()), indent=2))
    except (Bad, OSError, UnicodeDecodeError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
