"""The user's own classes and modules: imported by name, and located in errors."""
