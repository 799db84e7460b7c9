"""Classes and modules of the user's: found by their import path, and named in errors."""
