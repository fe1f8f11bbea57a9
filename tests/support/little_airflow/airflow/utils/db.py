"""Of airflow.utils.db, what 2.x does before each command."""


def check_and_run_migrations() -> None:
    print("migrations")
