"""The steps behind the command ecr-airflow-sync. Private: import ecr_airflow_sync."""
