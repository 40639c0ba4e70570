"""The application's own metrics: what it counts with `prometheus_client`, over all workers.

`store` is the shared memory that holds it, `recorder` what a worker writes, `patches` how
`prometheus_client` comes to write there, `collector` what a scrape gets.
"""

from __future__ import annotations
