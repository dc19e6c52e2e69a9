"""Protocol of TensorFlow Serving that client and server share: tensors, codes, JSON, TLS files."""
