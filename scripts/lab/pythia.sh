#!/usr/bin/env bash
# Pythia (Biderman et al. 2023), 160M to 2.8B. Published: 65 to 192 tokens a vector; 2,048 positions.
source "$(dirname "$0")/common.sh"
family pythia 320 EleutherAI/pythia-160m EleutherAI/pythia-410m EleutherAI/pythia-1.4b EleutherAI/pythia-2.8b
scaling pythia 2016 EleutherAI/pythia-160m 1,2,4,8,16,32
