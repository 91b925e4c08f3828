#!/usr/bin/env bash
# Every study on the default model, for two cores and two hours: TEXTS="book.txt".
# Two lanes of one thread each, since two single threads do more than one run with two. Each writes a
# log; what was done stays, and the same command goes on from there.
COUNT=${COUNT:-3}
source "$(dirname "$0")/common.sh"
ARGS="$ARGS --threads 1"
own=smollm2-135m
mkdir -p "$OUT/$own"

first_lane() {
  KINDS='' study scaling "$own/scaling" --texts 1 --steps 120 --mem 1,2,4,8
  KINDS='' study greedy "$own/greedy" --texts 2 --steps 120
  KINDS='' study geometry "$own/geometry" --texts 1 --steps 120
  local book
  for book in $TEXTS; do
    # shellcheck disable=SC2086 # several options
    llmzip lab plan "$book" --texts 2 --out "$OUT/$own/plan-$(basename "$book")" $ARGS
  done
}

second_lane() {
  study capacity "$own/capacity" --texts "$COUNT" --steps 120
  study entropy "$own/entropy" --texts 2 --steps 100 --tokens 140
  KINDS='' study rate "$own/rate" --texts 1 --bits 16,8,4,3,2
  study utilisation "$own/utilisation" --texts 1 --steps 100
}

set -m # each lane is a process group: what it runs can be stopped with it
first_lane >"$OUT/$own/first.log" 2>&1 &
first=$!
second_lane >"$OUT/$own/second.log" 2>&1 &
second=$!
trap 'kill -- "-$first" "-$second" 2>/dev/null; wait; exit 130' INT TERM
echo "working; see $OUT/$own/first.log and second.log" >&2
result=0
wait "$first" || result=$?
wait "$second" || result=$?
cat "$OUT/$own/first.log" "$OUT/$own/second.log"
exit "$result"
