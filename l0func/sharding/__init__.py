"""Networks whose tensors are spread over processes: gates laid out, and tensors put together."""
