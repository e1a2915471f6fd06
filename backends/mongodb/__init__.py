"""The index, and the files too if wished, in MongoDB 4.4 or newer: standalone, replicated or sharded."""

from backends.mongodb.blobs import GridFSBlobStore
from backends.mongodb.storage import MongoStorage

__all__ = ["GridFSBlobStore", "MongoStorage"]
