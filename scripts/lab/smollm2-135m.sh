#!/usr/bin/env bash
# Every study on the default model, for two cores and two hours: TEXTS="book.txt".
# Two queues of studies run side by side, with one thread each, which is faster than one queue with two
# threads. Each writes a log. After an interruption the same command goes on where it was.
COUNT=${COUNT:-3}
source "$(dirname "$0")/common.sh"
ARGS="$ARGS --threads 1"
own=smollm2-135m
mkdir -p "$OUT/$own"

# Bash runs the trap of a queue once the study in its foreground, which gets the same signal, has ended.
first_queue() {
  trap 'exit 143' TERM
  KINDS='' study scaling "$own/scaling" --texts 1 --steps 120 --mem 1,2,4,8
  KINDS='' study greedy "$own/greedy" --texts 2 --steps 120
  KINDS='' study geometry "$own/geometry" --texts 1 --steps 120
  local book
  for book in $TEXTS; do
    # shellcheck disable=SC2086 # several options
    llmzip lab plan "$book" --texts 2 --out "$OUT/$own/plan-$(basename "$book")" $ARGS
  done
}

second_queue() {
  trap 'exit 143' TERM
  study capacity "$own/capacity" --texts "$COUNT" --steps 120
  study entropy "$own/entropy" --texts 2 --steps 100 --tokens 140
  KINDS='' study rate "$own/rate" --texts 1 --steps 100
  KINDS='' study scaling "$own/scaling-signs" --texts 1 --bits 1 --mem 1,2,4,8
  study utilisation "$own/utilisation" --texts 1 --steps 100
}

set -m # each queue is a process group, so that its studies can be stopped with it
first_queue >"$OUT/$own/first.log" 2>&1 &
first=$!
second_queue >"$OUT/$own/second.log" 2>&1 &
second=$!
trap 'kill -- "-$first" "-$second" 2>/dev/null; wait; exit 130' INT TERM
echo "working; see $OUT/$own/first.log and second.log" >&2
result=0
wait "$first" || result=$?
wait "$second" || result=$?
cat "$OUT/$own/first.log" "$OUT/$own/second.log"
exit "$result"
