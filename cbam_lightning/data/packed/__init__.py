"""Packed images: shards that are read many times faster than files, from a folder or an object store."""
