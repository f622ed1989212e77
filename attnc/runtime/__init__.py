"""What a kernel needs while it runs: the users' arrays, and the cache of machine code."""
