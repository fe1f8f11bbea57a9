"""Loads DAGs and tries tasks of theirs, all in one process. Run by a real Airflow's own Python.

In a process of its own, each task of Airflow 3 would first build an API server, for 12
seconds. Arguments: the airflow script, the folder of the DAGs, and tasks as `dag task`.
Out: errors and tasks found as a line of JSON, then each log; END is the end of each.
"""

import json
import runpy
import sys
import traceback

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # Airflow 1.10 and 2
    from airflow.models import DagBag

END = "\n=== end ==="

script, folder, *tasks = sys.argv[1:]
bag = DagBag(folder)
found = {name: sorted(dag.task_ids) for name, dag in bag.dags.items()}
print("\n" + json.dumps([bag.import_errors, found]) + END, flush=True)
for task in tasks:
    sys.argv = [script, "tasks", "test", *task.split(), "2026-01-02"]
    try:
        runpy.run_path(script, run_name="__main__")
    except (Exception, SystemExit):  # noqa: BLE001 - whatever a command ends by
        traceback.print_exc()
    print(END, flush=True)
