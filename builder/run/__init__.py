"""The run directory: parts that are only ever added, views, the lock, and the record of progress."""
