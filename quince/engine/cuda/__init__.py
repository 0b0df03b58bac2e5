"""Attention kernels of our own for MLX's CUDA build: what attention.py asks first."""
