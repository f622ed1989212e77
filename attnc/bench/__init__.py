"""Benchmarks: how fast the kernels are beside other attentions, and what a call costs besides its arithmetic.

A *suite* is a list of rows (`suite`); a row measures itself (`attention` for a case beside its peers) with calls that take turns (`timing`)
and gives figures with their spread and their aim (`row`); `report` prints, saves and compares them.
"""
