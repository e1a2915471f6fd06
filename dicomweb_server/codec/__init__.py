"""Pixels: decoding, encoding and rendering of frames. Nothing here is imported until a request needs it."""
