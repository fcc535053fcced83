"""From fitted models to ONNX graphs."""
