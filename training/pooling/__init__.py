"""How the demo embedding model and the demo reranker are made, and what they are taught."""
