"""What suits the device, how a picture is spread over several, and compiled programs on disk."""
