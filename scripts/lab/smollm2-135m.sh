#!/usr/bin/env bash
# Every study on the default model, small enough for two cores and two hours: TEXTS="book.txt".
COUNT=${COUNT:-8}
source "$(dirname "$0")/common.sh"
export OUT
study capacity smollm2-135m/capacity --texts "$COUNT" --steps 120
study scaling smollm2-135m/scaling --texts 1 --steps 120 --mem 1,2,4,8
study entropy smollm2-135m/entropy --texts 5 --steps 100
study rate smollm2-135m/rate --texts 1 --bits 16,8,6,4,3,2
study greedy smollm2-135m/greedy --texts 2 --steps 120
study geometry smollm2-135m/geometry --texts 1 --steps 120
study utilisation smollm2-135m/utilisation --texts 2 --steps 100
for book in $TEXTS; do
  # shellcheck disable=SC2086 # several options
  llmzip lab plan "$book" --texts 2 --out "$OUT/smollm2-135m/plan-$(basename "$book")" $ARGS
done
