"""Attention as message passing."""
