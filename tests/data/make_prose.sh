#!/bin/sh
# How v1_prose.crm was made from v1_prose.txt, by llmzip 0.1.0 with its default model. The vectors of
# another run differ: this shows where the file comes from, and replaces nothing.
exec llmzip compress "$(dirname "$0")/v1_prose.txt" -o "${1:-/tmp/v1_prose.crm}" \
    --context 64 --bits 16 --budget-bits 300
