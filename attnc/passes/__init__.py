"""Graph passes, one per file, named by their verb; `attnc.compile` lists them in order."""
