"""Models on disk and in memory: what there is, by which names, and the engines that serve it."""
