"""Conformance: what unhot trains is what dense training trains, for every rule in `registry.RULES`."""
