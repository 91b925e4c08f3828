#!/usr/bin/env bash
# Mamba (Gu and Dao 2023), 130M to 1.4B. Published: token gains of 66 to 349.
source "$(dirname "$0")/common.sh"
family mamba 768 state-spaces/mamba-130m-hf state-spaces/mamba-370m-hf state-spaces/mamba-790m-hf state-spaces/mamba-1.4b-hf
