"""The command lines of the main job and of the conversion."""
