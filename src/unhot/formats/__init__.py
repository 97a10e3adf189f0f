"""Vectors with keys in the files of others: read and written piece by piece, each family of formats in a module of its own."""
