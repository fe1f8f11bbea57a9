"""Of airflow.utils.log.secrets_masker, the secrets that are known."""


class _Masker:
    patterns = {"the Fernet key"}  # noqa: RUF012 - as Airflow has it


masker = _Masker()


def _secrets_masker() -> _Masker:
    return masker
