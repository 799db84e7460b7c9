"""The command ``cbam-lightning``."""
