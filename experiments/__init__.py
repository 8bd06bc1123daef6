"""Runnable studies, one module each; their settings live in ``configs/``."""
