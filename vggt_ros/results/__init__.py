"""What a run leaves behind: result bag, report, map and trajectory files, and how good they are."""
