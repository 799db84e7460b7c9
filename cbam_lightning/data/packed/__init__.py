"""Packed images: shards in a folder or an object store, which are read many times faster than files."""
