"""What a run leaves behind: its directory, its record, its pictures, its closing lines."""
