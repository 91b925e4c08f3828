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
run llmzip info tale.crm
run llmzip test tale.crm
run llmzip decompress -o back.txt tale.crm
run cmp tale.txt back.txt

say "What a chunk costs, and what its vector has to hold."
run llmzip explain tale.crm

say "The smaller codec, in a pipe: nothing but data on standard output."
run "llmzip compress --codec arith - < tale.txt > pipe.crm"
run "llmzip decompress - < pipe.crm | cmp - tale.txt"
run ls -l tale.txt tale.crm pipe.crm

say "A part of the original, without the rest."
run llmzip decompress --bytes 0:60 -c tale.crm
echo

say "For programs: one JSON object, and an exit code that says what was wrong."
run "llmzip info --json pipe.crm | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"file_bits_per_byte\"])'"
head -c 100 pipe.crm > cut.crm
run "llmzip test cut.crm || echo exit code \$?"

say "What is already there is left alone: it is identical, or a reason to stop."
run llmzip decompress tale.crm
run llmzip compress --preset fast tale.txt
echo "Another text." > tale.txt
run "llmzip decompress tale.crm || echo exit code \$?"
run llmzip decompress --force tale.crm
