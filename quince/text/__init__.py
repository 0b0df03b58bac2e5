"""Text to tokens and back: everything between the wire formats and the engine. Imports no MLX."""
