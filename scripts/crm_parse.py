"""Reference parser for `.crm` format v1: written from docs/FORMAT.md, standard library only.

`python scripts/crm_parse.py FILE.crm` prints the file's structure as JSON, or one line and exit
code 1. Shares no code with llmzip, so that a test can hold the two against each other. Planes in
zstd are unpacked where Python has zstd (3.14), else only their sizes are shown.
"""

from __future__ import annotations

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

    def signed(self):
        code = self.varint()
        return -(code + 1) // 2 if code % 2 else code // 2

    def bitmap(self, count, ones):
        number = int.from_bytes(self.take((count + 7) // 8), "little")
        need(number >> count == 0 and bin(number).count("1") == ones, "bad bitmap")
        return [bool(number >> index & 1) for index in range(count)]


def read_header(data):
    """The fields of the header, and where the body starts."""
    need(data[:8] == MAGIC, "not a .crm file")
    r = Reader(data, 8, len(data))
    version, required, optional = r.byte(), r.byte(), r.byte()
    need(version == 1 and required < 32, "unsupported version or feature")
    size = r.varint()
    need(size <= 1 << 20, "header too large")
    end = r.at + size
    need(end + 4 <= len(data), "truncated header")
    crc = int.from_bytes(data[end : end + 4], "little")
    need(crc == zlib.crc32(data[:end]), "header checksum")
    r.end = end
    need(r.byte() == 0, "reserved byte in use")
    head = {"version": version, "required": required, "optional": optional}
    head["original_bytes"] = r.varint()
    head["original_hash"] = r.take(32).hex()
    head["xz_bytes"], head["zstd_bytes"], runs = r.varint(), r.varint(), r.varint()
    head["num_runs"], head["first_is_stored"] = runs // 2, bool(runs % 2)
    head["columns_bytes"], head["stored_bytes"] = r.varint(), r.varint()
    for name in ("num_chunks", "num_literal", "vector_bytes", "patch_bytes"):
        head[name] = 0
    if required & 1:
        head["model_id"] = r.take(r.varint()).decode()
        code = r.varint()
        head["revision"] = r.take(20).hex() if code == 1 else r.take(max(code - 1, 0)).decode()
        head["model_digest"] = r.take(16).hex()
        for name in ("num_mem", "mem_dim", "bits", "context_tokens"):
            head[name] = r.varint()
        need(head["bits"] == 16, "unsupported precision")
        head["start_id"] = r.varint() if required & 8 else None
        need((head["start_id"] or 0) < 1 << 31, "start token")
        head["margin_code"] = r.byte()
        head["num_chunks"] = r.varint()
        head["num_literal"] = r.varint() if required & 16 else 0
        head["patch_bytes"] = r.varint()
        vectors = head["num_chunks"] - head["num_literal"]
        head["vector_bytes"] = vectors * head["num_mem"] * head["mem_dim"] * 2
        need(head["num_literal"] <= head["num_chunks"] <= head["patch_bytes"], "chunk counts")
    need(r.at == end or optional > 1, "unused bytes in the header")
    return head, end + 4


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
    for run in crams:
        left = run["num_tokens"]
        for index, chunk in enumerate(run["chunks"]):
            chunk["num_tokens"] = left // (len(run["chunks"]) - index) + r.signed()
            left -= chunk["num_tokens"]
            need(1 <= chunk["num_tokens"] <= 65535 and left >= 0, "token count")
        need(left == 0, "tokens do not add up")
    for run in crams:
        tokens, left = run["num_tokens"], run["num_bytes"]
        for chunk in run["chunks"]:
            chunk["num_bytes"] = left * chunk["num_tokens"] // tokens + r.signed()
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


def parse(data):
    head, at = read_header(data)
    planes = {}
    for name, size in (("columns", "columns_bytes"), ("vectors", "vector_bytes"),
                       ("patches", "patch_bytes"), ("stored", "stored_bytes")):  # fmt: skip
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
    result["runs"] = runs = read_columns(columns, head)
    chunks = [chunk for run in runs for chunk in run["chunks"]]
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
