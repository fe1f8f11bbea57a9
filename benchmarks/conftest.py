"""What is measured is a real Airflow."""

from tests.support.real_airflow import (  # noqa: F401 - fixtures
    api_server,
    database_servers,
    on_database,
    real,
)
