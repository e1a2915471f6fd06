"""Blobs as files in a directory."""

from backends.files.blobs import FileBlobStore

__all__ = ["FileBlobStore"]
