from __future__ import annotations

from typing import Any

import psycopg
from django.db.backends.postgresql import base
from django.db.backends.utils import CursorWrapper

from webapp.core.lost_database import hung_up


class DatabaseWrapper(base.DatabaseWrapper):
    """Gets no connection that the server has hung up on.

    CONN_HEALTH_CHECKS promises the same by a round trip, and short work of a worker, which takes a connection out of
    the pool for each piece, would pay it several times for a reply.
    """

    def get_new_connection(self, conn_params: dict[str, Any]) -> psycopg.Connection:
        while hung_up(connection := super().get_new_connection(conn_params)):
            connection.close()
            if self.pool is None:
                raise psycopg.OperationalError("The server has hung up at once.")
            self.pool.putconn(connection)  # it puts another in its place
        return connection

    def prepared_cursor(self) -> CursorWrapper:
        """One whose statements the server plans once for each connection, after OPTIONS["prepare_threshold"] of them.

        They name the columns that they want: the server refuses what a migration has given other columns.
        """
        self.ensure_connection()
        with self.wrap_database_errors:
            # Django's own put the values into the text, so that each is another statement.
            cursor = psycopg.Cursor(self.connection)
        return self._prepare_cursor(cursor)  # type: ignore[attr-defined]  # which the stubs leave out
