"""What was sent, paid for and answered, so that a crash costs nothing twice."""
