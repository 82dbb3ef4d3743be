"""Export Video Patch Pruning models to ONNX and run them on video."""

__version__ = "0.1.0"
