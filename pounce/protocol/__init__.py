"""Bytes and events: protocols without sockets and without an event loop."""
