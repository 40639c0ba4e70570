"""One worker: its event loop, its connections, the request cycle."""
