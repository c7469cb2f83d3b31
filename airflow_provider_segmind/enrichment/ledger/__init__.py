"""What was asked, paid for and answered, so that a crash costs nothing twice."""
