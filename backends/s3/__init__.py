"""Files in an S3 bucket: Amazon's, or that of any server that speaks its protocol."""

from backends.s3.blobs import S3BlobStore

__all__ = ["S3BlobStore"]
