"""The intermediate representation: one table of ops, immutable nodes, graphs, their checks and their printed form."""
