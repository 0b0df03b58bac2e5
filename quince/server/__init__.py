"""The API process: routes that translate between wire formats and events. No MLX, no token loop."""
