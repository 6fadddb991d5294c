"""A run's folder from beginning to end, and what a command makes it from."""
