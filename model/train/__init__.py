"""From a table to an artifact. The only room that may import scikit-learn and onnx."""
