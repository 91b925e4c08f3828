#!/usr/bin/env bash
# Llama 3 (Grattafiori et al. 2024), 1B to 8B. Published: 316 to 1,568 tokens a vector, 7,168 in 16.
# The models are gated: log in to the hub first.
source "$(dirname "$0")/common.sh"
family llama-3 2560 meta-llama/Llama-3.2-1B meta-llama/Llama-3.2-3B meta-llama/Llama-3.1-8B
scaling llama-3 8192 meta-llama/Llama-3.2-1B 1,2,4,8,16
