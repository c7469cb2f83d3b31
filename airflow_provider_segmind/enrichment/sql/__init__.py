"""Tables in databases, over any connection of PEP 249."""
