"""What is in flight, spent and failed: the reader, the command and the page."""
