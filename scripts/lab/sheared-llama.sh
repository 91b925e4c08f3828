#!/usr/bin/env bash
# Sheared-LLaMA-1.3B (Xia et al. 2023). Published: 382 to 512 tokens a vector; 4,096 positions.
source "$(dirname "$0")/common.sh"
family sheared-llama 1024 princeton-nlp/Sheared-LLaMA-1.3B
