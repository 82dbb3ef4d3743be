"""Cuts the model into stages with tensor-only signatures."""
