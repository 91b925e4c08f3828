"""Reads `.crm` files, format version 1: docs/FORMAT.md in code, with the standard library alone.

`python scripts/read_crm.py FILE.crm` prints what is in a file as JSON; a file that breaks a rule of
the format gives one line on stderr and exit code 1. Two things stay closed: streams of arith files
and of patched tokens, which take the model, and zstd in a Python without it (before 3.14).
`crm_coding.py` and `crm_chunks.py` are parts of it. It shares no code with llmzip.
"""

import json
import sys
from zlib import crc32

from crm_chunks import coded_vectors, patch_streams, read_chunks, shared_vectors
from crm_coding import MAX_ID, BadFile, Fields, Reader, need

try:
    from compression import zstd
except ImportError:
    zstd = None

MAGIC, END_MARK = bytes.fromhex("89 43 52 4D 0D 0A 1A 0A"), bytes.fromhex("4D 52 43 0A")
REQUIRED = (
    *("model", "columns_zstd", "stored_zstd", "start", "literal", "coded", "arith", "signs"),
    *("streams", "number", "shared"),
)
OPTIONAL = ("bf16_safe", "suffix", "settings")
PLANES = (
    *("columns_bytes", "shared_bytes", "vector_bytes", "patch_bytes", "stream_bytes"),
    "stored_bytes",
)

MODELS = {
    1: ("smollm2-135m", "", "632270f3ddf1b2fbd28ac0404007e1d4"),
    4: ("smollm2-135m-text", "", "fdb6c77b81948ca9998b4c4cb910375c"),
}

# Tables of fields. Each line: what a file must have for these fields to be there, and the fields.
# Each field: its name, its type (a method of Reader, or a number of bytes), its least and its most.
GRID = "max_symbol varint 1 1023, first_step varint 4 1019, step_span varint 0 1015, prior u8"
HEADER = f"""
: required_more u8 0 7, original_bytes varint, original_hash 32, xz_bytes varint, zstd_bytes varint
: runs varint, columns_bytes varint, stored_bytes varint
number: model_number varint
spelled: model_id name, revision revision, model_digest 16
crammed: num_mem varint 1 1024, mem_dim varint 1 65536, bits varint 1 16
crammed: context_tokens varint 0 {MAX_ID}
start: start_id varint 0 {MAX_ID}
crammed: margin u8, num_chunks varint 1
literal: num_literal varint 1 num_chunks
crammed: patch_bytes varint
grids: vector_bytes varint, {GRID}
signs: step varint 4 1019
coded: num_patches varint, num_patched varint
streams: position_bytes varint 0 patch_bytes
shared: num_shared varint 1 num_chunks, shared_mem varint 1 64, shared_bytes varint
shared: shared_symbol varint 1 1023, shared_first varint 4 1019, shared_span varint 0 1015
shared: shared_prior u8
arith: recipe varint 1 1, num_segments varint 1, prefix_tokens varint 0 65535
arith: window_tokens varint 1 {2**24}, guard u8 1 255, wrap u8 0 2, num_mem varint 0 64
arith num_mem: mem_dim varint 1 65536, vector_bytes varint, {GRID}
arith: stream_bytes varint num_segments
suffix: original_suffix suffix
settings: settings_check 2"""
RUN = """
crammed: num_chunks varint 1, num_tokens varint 1
: num_bytes varint 1"""
SEGMENT = f"""
: num_tokens varint 1 {2**24}, num_bytes varint num_tokens, num_lanes varint 1 64
: stream_bytes varint 1, check 4"""


def read_header(r):
    """The fields, and whether the file has each of the features."""
    need(r.take(8) == MAGIC, "not a .crm file")
    version, required, optional = r.take(3)
    need(version == 1, f"version {version}")
    size = r.varint()
    need(size <= 2**20, "header too large")
    fields = Reader(r.take(size))
    required |= fields.data[0] << 8 if fields.data else 0
    need(crc32(r.data[: r.at]) == int.from_bytes(r.take(4), "little"), "checksum of the header")
    head = Fields({name: bool(required >> place & 1) for place, name in enumerate(REQUIRED)})
    head |= {name: bool(optional >> place & 1) for place, name in enumerate(OPTIONAL)}
    head["crammed"] = head["model"] and not head["arith"]
    head["spelled"] = head["model"] and not head["number"]
    head["grids"] = head["coded"] and not head["signs"]
    fields.fields(HEADER, head)
    if head["number"]:
        need(head["model_number"] in MODELS, f"model number {head['model_number']}")
        names = ("model_id", "revision", "model_digest")
        head |= dict(zip(names, MODELS[head["model_number"]], strict=True))
    if optional < 1 << len(OPTIONAL):  # else what is left belongs to features not known here
        fields.end()
    check_header(head)
    vector_chunks = 1 if head["arith"] else head["num_chunks"] - head["num_literal"]
    head["num_vectors"] = head["num_mem"] * vector_chunks
    if head["crammed"] and not head["grids"]:
        bits = head["mem_dim"] * head["num_vectors"] * (1 if head["signs"] else 16)
        head["vector_bytes"] = (bits + 7) // 8
    return head


def check_header(head):
    """What the fields must say of each other."""
    of_models = head["start"] or head["arith"] or head["number"]
    need(head["model"] or not of_models, "features of a model, but no model")
    of_chunks = ("literal", "coded", "signs", "streams", "shared", "bf16_safe")
    need(
        head["crammed"] or not any(head[name] for name in of_chunks),
        "features of chunks, but no chunks",
    )
    num_runs, num_stored = head["runs"] // 2, (head["runs"] + 1) // 4
    planes = (head["columns_bytes"] > 0, head["stored_bytes"] > 0, head["model"])
    runs = (head["runs"] > 0, num_stored > 0, num_runs > num_stored)
    need(planes == runs, "runs without their planes, or planes without runs")
    need(head["first_step"] + head["step_span"] <= 1019, "steps")
    need(head["shared_first"] + head["shared_span"] <= 1019, "steps of shared vectors")
    if head["crammed"]:
        need(head["bits"] in (range(1, 9) if head["coded"] else (16,)), f"{head['bits']} bits")
        need(head["coded"] >= head["signs"], "signs in a file that is not coded")
        need(head["coded"] >= head["streams"], "streams in a file that is not coded")
        need(head["coded"] >= head["shared"], "shared vectors in a file that is not coded")
        need(head["num_patches"] or not head["streams"], "streams without patches")
        need(head["num_literal"] < head["num_chunks"] or not head["signs"], "signs, but no vectors")
        plane = "columns_bytes" if head["coded"] else "patch_bytes"
        need(head["num_chunks"] <= head[plane], f"{head[plane]} {plane} for more chunks")
    if head["arith"]:
        need(head["num_segments"] + num_runs <= head["columns_bytes"], "too many segments")


def read_runs(r, head):
    text = "arith" if head["arith"] else "crammed"
    kinds = ("stored" if (head["runs"] + place) % 2 else text for place in range(head["runs"] // 2))
    runs = [r.fields(RUN, Fields({kind: True})) for kind in kinds]
    total = sum(run["num_bytes"] for run in runs)
    need(total == head["original_bytes"], f"runs of {total} bytes")
    return runs


def read_segments(r, head, streams):
    """The segments of an arith file, each with its stream."""
    segments = [r.fields(SEGMENT, Fields()) for _ in range(head["num_segments"])]
    for segment in segments:
        tokens, stream = segment["num_tokens"], streams.take(segment["stream_bytes"])
        need(segment["num_lanes"] <= tokens <= 4096 * len(stream) + 4095, f"{tokens} tokens")
        segment["stream"] = stream.hex()
    streams.end()
    return segments


def unzstd(frame, most):
    """The content of a plane that is one zstd frame; most: bytes that it may have."""
    decoder = zstd.ZstdDecompressor()
    try:
        size = zstd.get_frame_info(frame).decompressed_size or 0
        need(size <= min(most, len(frame) << 15), f"zstd frame of {size} bytes")
        data = decoder.decompress(frame, size + 1)
    except zstd.ZstdError as error:
        raise BadFile(f"zstd: {error}") from error
    need(decoder.eof and not decoder.unused_data and 0 < len(data) == size, "zstd frame")
    return data


def read(data):
    """What is in a file, by name. Raises BadFile."""
    r = Reader(data)
    head = read_header(r)
    sizes = [head[name] for name in PLANES]
    need(len(data) == r.at + sum(sizes) + 8, f"{len(data)} bytes, not {r.at + sum(sizes) + 8}")
    body = r.take(sum(sizes))
    need(crc32(body) == int.from_bytes(r.take(4), "little"), "checksum of the planes")
    need(r.take(4) == END_MARK, "end mark")
    columns, shared, vectors, patches, streams, stored = map(Reader(body).take, sizes)
    found = {"header": head}
    if head["columns_zstd"]:
        if not zstd:
            return found
        most = 27 * (head["runs"] // 2) + 21 * head["num_chunks"] + 40 * head["num_segments"] + 11
        most += 18 * head["num_shared"]
        columns = unzstd(columns, most)
    columns = Reader(columns)
    runs = found["runs"] = read_runs(columns, head)
    if head["crammed"]:
        crammed = [run for run in runs if run["crammed"]]
        patches = Reader(patches)
        chunks = found["chunks"] = read_chunks(columns, head, crammed, Reader(vectors), patches)
        if head["shared"]:
            found |= shared_vectors(columns, head, chunks, shared)
        if head["streams"]:
            found["patched_tokens"] = patch_streams(patches, chunks)
    if head["arith"]:
        segments = found["segments"] = read_segments(columns, head, Reader(streams))
        text_bytes = sum(run["num_bytes"] for run in runs if run["arith"])
        need(text_bytes == sum(s["num_bytes"] for s in segments), f"text of {text_bytes} bytes")
        found["shared_vectors"] = coded_vectors(vectors, head) if head["num_mem"] else []
    columns.end()
    if zstd or not head["stored_zstd"]:
        stored = Reader(unzstd(stored, head["original_bytes"]) if head["stored_zstd"] else stored)
        for run in runs:
            if run["stored"]:
                run["data"] = stored.take(run["num_bytes"]).hex()
        stored.end()
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: read_crm.py FILE.crm")
    try:
        with open(sys.argv[1], "rb") as file:
            print(json.dumps(read(file.read()), indent=2))
    except (BadFile, OSError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
