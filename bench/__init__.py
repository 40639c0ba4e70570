"""Side-by-side benchmarks of Pounce and other ASGI servers: ``python -m bench --help``."""
