# Functions that the scripts beside it share: the studies of one family of models.
#
#   TEXTS="book.txt ..."   natural texts, or
#   TABLE=chunks.csv       a CSV file with a column named text (chunks of PG-19, of fan fiction)
#   WORDS=words.txt        words to draw random texts from; else the vocabulary's
#   OUT=lab                where the folders go
#   KINDS=                 no random texts (--random)
#   COUNT=50               texts of each source, as in the paper
#   ARGS="--device cuda"   anything else that llmzip lab takes
set -euo pipefail

: "${OUT:=lab}" "${COUNT:=50}" "${TEXTS:=}" "${TABLE:=}" "${WORDS:=}" "${KINDS=--random}" "${ARGS:=}"

if [ -z "$TEXTS$TABLE" ]; then
  echo "name texts: TEXTS=\"book.txt ...\" or TABLE=chunks.csv" >&2
  exit 2
fi

# study NAME FOLDER [OPTION ...]: one study of the texts above.
study() {
  local name=$1 folder=$2
  shift 2
  # shellcheck disable=SC2086 # several files, several options
  llmzip lab "$name" $TEXTS --out "$OUT/$folder" $KINDS \
    ${TABLE:+--table "$TABLE"} ${WORDS:+--words "$WORDS"} $ARGS "$@"
}

# family FOLDER TOKENS MODEL ...: Table 1, Figures 1, 3 and 5 of some models. TOKENS: of each text,
# enough for the largest model's vector.
family() {
  local folder=$1 tokens=$2
  shift 2
  local models=()
  for model in "$@"; do models+=(--model "$model"); done
  study capacity "$folder/capacity" --texts "$COUNT" --tokens "$tokens" "${models[@]}"
  for model in "$@"; do
    study entropy "$folder/entropy-${model##*/}" --texts 8 --tokens "$tokens" --model "$model"
  done
}

# scaling FOLDER TOKENS MODEL K,...: Figure 4 of one model.
scaling() {
  study scaling "$1/scaling-${3##*/}" --texts "$COUNT" --tokens "$2" --model "$3" --mem "$4"
}
