"""Damaged and hostile input, case by case, and how each one ends. `python -m tests.faults`."""
