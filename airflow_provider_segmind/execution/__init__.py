"""What a task does on a worker; it takes frozen settings and never an operator."""
