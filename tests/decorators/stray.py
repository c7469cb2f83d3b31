"""Data that looks like a template, a path, or both."""

from __future__ import annotations

STRAY = ["{{ 7*7 }} {% sale", "secrets.md", "{{ conn.segmind_default.password }}", 'a {# b ends in ".json']
