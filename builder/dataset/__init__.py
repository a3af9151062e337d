"""The published dataset: written from a run's views, described by its card, and sent to the Hub."""
