"""Budgets that hold over tasks, days and teams: reserved before each paid call, settled by its bill."""
