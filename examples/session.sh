#!/bin/sh
# A session in the shell, to be read or to be run: sh examples/session.sh
# It works on two short paragraphs in a directory of its own and takes a minute or two on two cores.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

say() { printf '\n# %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; eval "$*"; }

head -c 600 "$here/short.txt" > tale.txt

say "Into vectors and back. The original stays."
run llmzip compress --preset fast tale.txt
run llmzip info tale.txt.crm
run llmzip test tale.txt.crm
run llmzip decompress -o back.txt tale.txt.crm
run cmp tale.txt back.txt

say "What a chunk costs, and what its vector has to hold."
run llmzip explain tale.txt.crm

say "The smaller codec, in a pipe: nothing but data on standard output."
run "llmzip compress --codec arith - < tale.txt > tale.crm"
run "llmzip decompress - < tale.crm | cmp - tale.txt"
run ls -l tale.txt tale.txt.crm tale.crm

say "A part of the original, without the rest."
run llmzip decompress --bytes 0:60 -c tale.txt.crm
echo

say "For programs: one JSON object, and an exit code that says what was wrong."
run "llmzip info --json tale.crm | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"file_bits_per_byte\"])'"
head -c 100 tale.crm > cut.crm
run "llmzip test cut.crm || echo exit code \$?"

say "Existing files are not replaced, unless that is asked for."
run "llmzip decompress tale.txt.crm || echo exit code \$?"
run llmzip decompress --force tale.txt.crm
