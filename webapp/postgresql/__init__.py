"""Django's PostgreSQL backend, with a pool whose check asks the server nothing. Knows no model of ours."""
