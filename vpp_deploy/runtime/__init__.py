"""Runs a pipeline over video: runners, temporal state, post-processing, tracker, session."""
