"""The language: traced values, functions on them, and the tracer that turns a Python function into a graph."""
