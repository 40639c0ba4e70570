"""The one exception of the benchmark."""


class BenchError(Exception):
    """The benchmark cannot go on; the message says why in terms the user can act on."""
