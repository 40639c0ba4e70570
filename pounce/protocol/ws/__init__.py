"""WebSocket (RFC 6455) with permessage-deflate (RFC 7692): bytes to messages and back.

Frames are read and written here rather than by a library: a library's machinery for one frame costs
more than everything else that an echo does. What only C does well, unmasking, is the library's
(`masking`); tests compare the rest with it. The figures are in docs/performance.md.
"""
