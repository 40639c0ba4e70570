"""Shared memory: bytes and their layout, one writer for each. Nothing here knows of HTTP.

`layout` declares what there is, `arena` makes it and finds it, `slot` is what a worker writes.
"""
