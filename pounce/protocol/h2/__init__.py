"""HTTP/2: bytes in, events out; responses in, bytes out (RFC 9113)."""
