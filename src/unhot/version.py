"""The version of the package: here alone, for the build and for all of the package to read."""

__version__ = "0.1.0"
