"""Stages to ONNX graphs, and graphs to a bundle."""
