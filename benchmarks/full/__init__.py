"""Measurements that take longer: HTTP clients, a real triggerer and a real scheduler."""
