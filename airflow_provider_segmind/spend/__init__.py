"""The spend record: one entry for each finished request, in object storage or a database."""
