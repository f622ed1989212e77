"""Tile programs: what both backends lower, without layouts, stages, registers or barriers."""
