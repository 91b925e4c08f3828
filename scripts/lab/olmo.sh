#!/usr/bin/env bash
# OLMo-1B (Groeneveld et al. 2024). Published: 249 to 384 tokens a vector; 2,048 positions.
source "$(dirname "$0")/common.sh"
family olmo 768 allenai/OLMo-1B-hf
