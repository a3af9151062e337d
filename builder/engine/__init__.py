"""Ray: which workers run where, and what happens when one dies, hangs or runs out of memory."""
