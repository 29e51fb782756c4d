"""Backups: made while the site runs, verified, restored elsewhere. docs/decisions/0014 says why so."""
