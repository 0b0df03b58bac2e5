"""Measures Quince side by side with mlx-lm and other servers. See README.md."""
