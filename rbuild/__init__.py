"""rbuild keeps Docker Compose projects fresh: one shot a run, no daemon."""

__version__ = "0.1.0"
