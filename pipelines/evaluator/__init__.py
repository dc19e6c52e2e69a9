"""Scores a model on the held-out images and decides whether it may be pushed."""
