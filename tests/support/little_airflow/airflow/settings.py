"""Of airflow.settings, the session that all commands share, which prints what is done."""

from types import SimpleNamespace


class _Session:
    dialect = SimpleNamespace(name="sqlite")

    def get_bind(self) -> "_Session":
        return self

    def flush(self) -> None:
        print("flush")

    def commit(self) -> None:
        print("commit")

    def rollback(self) -> None:
        print("rollback")

    def close(self) -> None:
        print("close")

    def execute(self, statement: str) -> None:
        if refuses:
            raise RuntimeError("canceling due to lock timeout")
        print(statement)


session = _Session()
shared, refuses = True, False


def Session() -> object:
    return session if shared else object()
