"""placeholder, to be written."""
