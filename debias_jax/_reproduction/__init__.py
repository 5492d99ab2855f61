"""Published tables and figures beside our own numbers, as sections of ``docs/results.md``: ``launch/reproduce.py``."""
