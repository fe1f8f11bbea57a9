"""Run an installed command once, against a stand-in for ECR and a fake Airflow.

    python -m tests.support.installed .venv/wheel/bin/ecr-airflow-sync

`make package` does so with the wheel that it has built.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.ecr_stand_in import EcrStandIn, environment, serving_here

FAKE = Path(__file__).with_name("fake_airflow.py")


def main() -> None:
    command = str(Path(sys.argv[1]).absolute())
    with serving_here(EcrStandIn()) as ecr, tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "airflow")
        script.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
        script.chmod(0o755)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "FAKE_AIRFLOW_STORE": f"{folder}/store",
            "FAKE_AIRFLOW_VERSION": "2.11.2",
            **environment(ecr.url),
        }
        options = ["-r", "us-east-1", "--airflow", str(script)]
        given = ["--airflow-version", "2.11.2"]
        subprocess.run([command, *options, *given], cwd=folder, env=env, check=True)
        told = subprocess.run(
            [command, "--help"], env=env, check=True, capture_output=True, text=True
        )
        docs = Path(told.stdout.rpartition("Documentation: ")[2].strip())
        print(f"{docs} has {len(list(docs.glob('*.md')))} pages")
        assert (docs / "options.md").exists()


if __name__ == "__main__":
    main()
