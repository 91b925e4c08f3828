#!/usr/bin/env bash
# OPT-1.3B (Zhang et al. 2022). Published: 116 to 128 tokens a vector; 2,048 positions.
source "$(dirname "$0")/common.sh"
family opt 320 facebook/opt-1.3b
