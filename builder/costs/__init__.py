"""What a row costs: the figures of GPUs, seconds a row as they are assumed, and as they were measured in a run."""
