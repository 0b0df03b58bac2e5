"""Measures a server as its clients see it: `quince bench`, and the client side of benchmarks/."""
