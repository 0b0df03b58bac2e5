#!/usr/bin/env bash
# Make the demo chat model from nothing: tokeniser, training on one GPU, scores. No network is used.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m training.tokenizer
python3 -m training.train "$@"
python3 -m training.evaluate --backend "${QUINCE_EVALUATE_BACKEND:-transformers}" --count 200 --batch 200
