"""Of airflow.bin.cli, what 1.10 makes before each command."""


class CLIFactory:
    @classmethod
    def get_parser(cls) -> None:
        print("parser")
