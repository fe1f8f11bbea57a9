"""Prints every connection of an id, decrypted, as JSON. Run by a real Airflow's own Python.

Its arguments are the id, and the fields that are wanted.
"""

import json
import sys

from airflow.models import Connection

try:
    from airflow.utils.session import create_session
except ImportError:  # Airflow 1.10
    from airflow.utils.db import create_session

conn_id, *fields = sys.argv[1:]
with create_session() as session:
    of_that_id = session.query(Connection).filter(Connection.conn_id == conn_id)
    found = [
        {name: getattr(connection, name, None) for name in fields}
        for connection in of_that_id
    ]
print("\n::" + json.dumps(found))
