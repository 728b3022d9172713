"""Suites: models by recipes by bits by budgets by seeds, measured by many workers into one store and one table.

``vitq.suites.compare`` is the way in; nothing is imported here, for workers begin quickly.
"""
