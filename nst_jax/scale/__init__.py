"""One scale of a run as compiled programs: whole, in tiles, or spread over devices."""
