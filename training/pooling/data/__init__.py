"""What the embedding model and the reranker learn from: queries, texts that answer them, and texts that do not."""
