"""Test DAGs against the offline Segmind: the fixture ``segmind_dag_test``."""
