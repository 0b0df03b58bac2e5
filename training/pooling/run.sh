#!/usr/bin/env bash
# Make the demo embedding model and the demo reranker from nothing: tokeniser, training on one GPU, scores. No network.
# Arguments are training.pooling.train's; OUT is where the two model directories are written.
set -euo pipefail
cd "$(dirname "$0")/../.."
out="${OUT:-quince/models/demo}"
embedder="$out/quince-demo-embedding" reranker="$out/quince-demo-reranker"
python3 -m training.pooling.tokenizer --out "$embedder" "$reranker"
python3 -m training.pooling.train --tokenizer "$embedder/tokenizer.json" --embedder "$embedder" --reranker "$reranker" "$@"
python3 -m training.pooling.evaluate --embedder "$embedder" --reranker "$reranker" --json "${SCORES:-training/pooling/scores.json}"
