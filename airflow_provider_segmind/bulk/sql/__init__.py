"""Tables of a database: rows out of a query, answers into a table, over any driver of PEP 249."""
