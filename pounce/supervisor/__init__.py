"""The master: its pool of workers, and what it tells its surroundings."""
