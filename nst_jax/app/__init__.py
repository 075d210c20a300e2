"""The page in the browser: a run that one watches and steers."""
