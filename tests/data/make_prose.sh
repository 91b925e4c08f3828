#!/bin/sh
# How v1_prose.crm and v1_arith_prose.crm were made from the texts beside them, by llmzip 0.1.0 with
# its default model. Another run's vectors and floating point differ, and so may its bytes: this shows
# where the files come from, and replaces nothing.
here=$(dirname "$0")
to=${1:-/tmp}
llmzip compress "$here/v1_prose.txt" -o "$to/v1_prose.crm" --context 64 --bits 16 --budget-bits 300
llmzip compress "$here/v1_arith_prose.txt" -o "$to/v1_arith_prose.crm" --codec arith
