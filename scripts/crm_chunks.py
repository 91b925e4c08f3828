"""The chunks of a `.crm` file: their columns, vectors and patches, raw or coded.

Written from docs/FORMAT.md for `read_crm.py`, with the standard library alone. A coded plane is
refused unless it is the one form of what it holds. A head is the fields of the file's header.
"""

from itertools import accumulate, islice

from crm_coding import MAX_ID, Decoder, need

INFINITE = 2.0**128 - 2.0**119  # the least number that bf16 rounds to infinity


def differences(reader, sizes, coded):
    """A number for each chunk. sizes: how many chunks each run has."""
    if coded:  # without the last one of each run, which is 0
        packed = iter(reader.rice(sum(sizes) - len(sizes)))
        codes = [code for size in sizes for code in (*islice(packed, size - 1), 0)]
    else:
        codes = [reader.varint() for _ in range(sum(sizes))]
    return iter([code >> 1 ^ -(code & 1) for code in codes])


def read_columns(reader, head, runs):
    """The chunks of the crammed runs, still without vectors and patches."""
    sizes, chunks = [run["num_chunks"] for run in runs], []
    need(sum(sizes) == head["num_chunks"], f"runs of {sum(sizes)} chunks")
    num_segments = reader.varint()
    more_tokens, more_bytes = (differences(reader, sizes, head["coded"]) for _ in range(2))
    for run in runs:
        tokens_left, bytes_left = run["num_tokens"], run["num_bytes"]
        for chunks_left in range(run["num_chunks"], 0, -1):
            tokens = tokens_left // chunks_left + next(more_tokens)
            need(1 <= tokens <= min(tokens_left, 65535), f"chunk of {tokens} tokens")
            size = bytes_left * tokens // tokens_left + next(more_bytes)
            tokens_left, bytes_left = tokens_left - tokens, bytes_left - size
            need(tokens <= size and tokens_left <= bytes_left, f"chunk of {size} bytes")
            chunks.append({"num_tokens": tokens, "num_bytes": size})
        need(tokens_left == bytes_left == 0, "chunks that do not add up to their run")
    size, firsts = len(chunks), [not place for size in sizes for place in range(size)]
    checks = [reader.take(1 if head["signs"] else 2).hex() for _ in chunks]
    starts = firsts if num_segments == len(runs) else [True] * size
    if num_segments not in (len(runs), size):
        starts = reader.bitmap(size, num_segments)
    need(all(start >= first for start, first in zip(starts, firsts, strict=True)), "segments")
    marks = reader.bitmap(size, head["num_literal"]) if head["literal"] else [False] * size
    for chunk, check, start, literal in zip(chunks, checks, starts, marks, strict=True):
        chunk |= {"check": check, "starts_segment": start, "literal": literal}
    return chunks


def raw_vectors(data, head):
    """All vectors of the plane, each as the hexadecimal digits of its bytes."""
    size = 2 * head["mem_dim"]
    numbers = zip(data[::2], data[1::2], strict=True)
    need(all(low < 128 or high % 128 < 127 for low, high in numbers), "a number that is not finite")
    return [data[at : at + size].hex() for at in range(0, len(data), size)]


def raw_patches(reader, chunks):
    """For each chunk its patches: positions, each with a token id."""
    for chunk in chunks:
        positions = range(chunk["num_tokens"])
        if not chunk["literal"]:
            gaps = [reader.varint() for _ in range(reader.varint())]
            positions = [place + passed for place, passed in enumerate(accumulate(gaps))]
            need(max(positions, default=0) < chunk["num_tokens"], "patch behind its chunk")
        patches = [(position, reader.varint()) for position in positions]
        need(all(token <= MAX_ID for _, token in patches), "token id too large")
        yield patches
    reader.end()


def first_counts(prior, largest):
    """Of the symbols -largest to largest."""
    ratio = 2**53 // (2**21 + ((4 + prior % 4) << prior % 128 // 4))
    falling = ratio * ratio >> 32 if prior < 128 else 2**32
    weights = [2**32]
    for _ in range(largest):
        weights.append(weights[-1] * ratio >> 32)
        ratio = ratio * falling >> 32
    share, total = 512 * (2 * largest + 1), 2 * sum(weights) - weights[0]
    counts = [max(1, share * weight // total) for weight in weights]
    return counts[:0:-1] + counts


def coded_vectors(data, head):
    """All vectors of the plane: the step of each, as the bits of a bf16 number, and its symbols."""
    size, largest, prior = head["mem_dim"], head["max_symbol"], head["prior"]
    first, span = head["first_step"], head["step_span"]
    counts, step_counts = first_counts(prior, largest), [max(1, 32 // (span + 1))] * (span + 1)
    decoder, vectors = Decoder(data, head["num_vectors"] * -(-size // 64)), []
    for _ in range(head["num_vectors"]):
        step = first + (decoder.symbols(step_counts, 1)[0] if span else 0)
        symbols = [symbol - largest for symbol in decoder.symbols(counts, size)]
        top = max(map(abs, symbols)) * (4 + step % 4) * 2.0 ** (step // 4 - 129)
        need(top < INFINITE, "a vector that is infinite")
        vectors.append({"step": 32 * step, "symbols": symbols})
    decoder.end()
    symbols = [abs(symbol) for vector in vectors for symbol in vector["symbols"]]
    steps = [vector["step"] // 32 for vector in vectors] or [4]
    found = (max([1, *symbols]), min(steps), max(steps) - min(steps))
    need(found == (largest, first, span) and (vectors or prior == 0), "symbols or steps")
    return vectors


def shared_vectors(reader, head, chunks, data):
    """The vectors of all sets, and for each set the segments that it leaves out and has."""
    names = {"shared_symbol": "max_symbol", "shared_first": "first_step"}
    names |= {"shared_span": "step_span", "shared_prior": "prior", "mem_dim": "mem_dim"}
    own, size = {name: head[theirs] for theirs, name in names.items()}, head["shared_mem"]
    vectors = coded_vectors(data, own | {"num_vectors": head["num_shared"] * size})
    spans = [(reader.varint(), reader.varint()) for _ in range(head["num_shared"])]
    num_segments = sum(chunk["starts_segment"] for chunk in chunks)
    need(all(count for _, count in spans), "a set of shared vectors before no segment")
    need(sum(map(sum, spans)) <= num_segments, "shared vectors before more segments than there are")
    for number, (skipped, _) in enumerate(spans):
        before, same = vectors[max(0, number - 1) * size :][:size], vectors[number * size :][:size]
        need(not number or skipped or before != same, "two sets that are one")
    return {"shared_vectors": vectors, "shared_spans": spans}


def sign_vectors(data, head):
    """All vectors of the plane, as `coded_vectors` gives them."""
    size, count = head["mem_dim"], head["num_vectors"]
    number = int.from_bytes(data, "little")
    need(number < 1 << size * count, "unused bits")
    bits = [number >> place & 1 for place in range(size * count)]
    symbols = [2 * bit - 1 for bit in bits]
    return [
        {"step": 32 * head["step"], "symbols": symbols[at : at + size]}
        for at in range(0, len(symbols), size)
    ]


def coded_patches(data, head, chunks):
    """For each chunk its patches: positions, each with a token id, a rank (skip, size, index), or
    None, where the stream of its segment has the token."""
    kinds = [224, 16, 16, *(max(2, 256 // (skip * (skip + 1))) for skip in range(1, 21))]
    escapes, skips, sizes, ids = [16] * 8, [16] * 8, [16] * 8, [32] * 16 + [8] * 2 + [2] * 14
    literal_tokens = sum(chunk["num_tokens"] for chunk in chunks if chunk["literal"])
    tokens = sum(chunk["num_tokens"] for chunk in chunks) - literal_tokens
    patches = head["num_patches"]
    decoder = Decoder(data, (patches + literal_tokens + 7) // 8)
    for chunk in chunks:
        num_tokens = chunk["num_tokens"]
        if chunk["literal"]:
            yield list(enumerate(decoder.numbers(ids, num_tokens)))
            continue
        need(0 <= patches <= tokens, "number of patches")
        flags = decoder.symbols([tokens - patches, patches], num_tokens) if patches else []
        positions = [position for position, flag in enumerate(flags) if flag]
        tokens, patches = tokens - num_tokens, patches - len(positions)
        if head["streams"]:
            yield [(position, None) for position in positions]
            continue
        found = decoder.symbols(kinds, len(positions))
        far = [(21 + number, 1, 0) for number in decoder.numbers(escapes, found.count(2))]
        starts = decoder.numbers(skips, found.count(1))
        lengths = [2 + number for number in decoder.numbers(sizes, found.count(1))]
        wide = [(skip, n, decoder.uniform(n)) for skip, n in zip(starts, lengths, strict=True)]
        need(all(skip + n <= 256 for skip, n, _ in far + wide), "a rank above 256")
        sources = [iter(decoder.numbers(ids, found.count(0))), iter(wide), iter(far)]
        named = [next(sources[kind]) if kind < 3 else (kind - 2, 1, 0) for kind in found]
        yield list(zip(positions, named, strict=True))
    need(patches == 0, "number of patches")
    decoder.end()


def patch_streams(reader, chunks):
    """The streams of patched tokens, one for each segment."""
    patched = []
    for chunk in chunks:
        if chunk["starts_segment"]:
            patched.append(False)
        patched[-1] |= bool(chunk["patches"]) and not chunk["literal"]
    streams = [reader.take(size) for size in [reader.varint() for _ in patched]]
    need(list(map(bool, streams)) == patched, "streams without patches, or patches without one")
    reader.end()
    return [stream.hex() for stream in streams]


def read_chunks(columns, head, runs, vectors, patches):
    """All chunks, from the readers of three planes; runs: the crammed ones."""
    chunks = read_columns(columns, head, runs)
    if head["coded"]:
        read_vectors = sign_vectors if head["signs"] else coded_vectors
        all_vectors = read_vectors(vectors.data, head)
        size = head["position_bytes"] if head["streams"] else len(patches.data)
        lists = coded_patches(patches.take(size), head, chunks)
    else:
        all_vectors, lists = raw_vectors(vectors.data, head), raw_patches(patches, chunks)
    all_vectors = iter(all_vectors)
    for chunk, found in zip(chunks, list(lists), strict=True):
        chunk["vectors"] = [] if chunk["literal"] else list(islice(all_vectors, head["num_mem"]))
        chunk["patches"] = found
    patched = sum(bool(chunk["patches"]) for chunk in chunks if not chunk["literal"])
    need(not head["coded"] or patched == head["num_patched"], f"{patched} chunks with patches")
    free_tokens = sum(chunk["num_tokens"] - len(chunk["patches"]) for chunk in chunks)
    need((head["margin"] > 0) == (free_tokens > 0), "a margin needs a token without a patch")
    return chunks
