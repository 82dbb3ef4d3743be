"""VPP in PyTorch, as MODEL.md describes it: knows nothing of ONNX or TensorRT."""
