"""Of airflow.models, the table of connections."""

from types import SimpleNamespace


class Connection:
    conn_id = SimpleNamespace(unique=True)
    __table__ = SimpleNamespace(
        c=SimpleNamespace(conn_id=conn_id), fullname="airflow.connection"
    )
