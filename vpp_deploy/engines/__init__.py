"""From a bundle of typed graphs to TensorRT engines. Needs no torch and no ONNX."""
