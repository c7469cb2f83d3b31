"""Budgets across tasks, days and teams: the cost is reserved before each paid call and settled by the bill."""
