#!/usr/bin/env bash
# Make the demo vision model from nothing: tokeniser, training on one GPU, scores. No network is used.
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 -m training.vision.tokenizer
python3 -m training.vision.train "$@"
