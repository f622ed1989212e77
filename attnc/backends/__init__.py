"""Kernel generators: one package per machine."""
