"""ONNX bundles to engines: TensorRT and TensorRT for RTX, by the same code."""
