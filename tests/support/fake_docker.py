"""An executable that plays docker where it is asked to prune, and refuses all else."""

from __future__ import annotations

PRUNES = (
    "docker container prune --force --filter until=24h",
    "docker image prune --all --force --filter until=24h",
)
CALLS = "/mnt/docker-calls"  # where the caller may write there

FAKE_DOCKER = f"""#!/bin/sh
[ -w /run/docker.sock ] || exit 13  # permission denied
case "docker $*" in
  "{PRUNES[0]}" | "{PRUNES[1]}") ;;
  *) echo "refused: docker $*" >&2; exit 125 ;;
esac
echo "$(id -un): docker $*" | tee -a {CALLS} 2>/dev/null || true
"""
