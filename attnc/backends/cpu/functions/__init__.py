"""Elementary functions on SIMD values and scalars alike, one family per file. Errors: docs/functions.md, which a test measures.

Polynomials are minimax fits (Remez's exchange in 50 digits; the coefficients rounded to the type one after the other, the rest
fitted again each time). Arguments are reduced with fused products, so that nothing is lost where a result is small.
"""
