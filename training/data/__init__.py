"""The training text: one module per skill, each with `generate(rng, split) -> Sample`."""
