#!/usr/bin/env bash
# Trains a run, or goes on with it where an earlier try has begun it: for jobs that are tried again, such as a RayJob.
#
#   cluster/train_or_resume.sh RUN CONFIG [ARGUMENTS of segray train]        RUN: a folder on the shared storage
set -euo pipefail

[[ $# -ge 2 ]] || { echo "usage: train_or_resume.sh RUN CONFIG [ARGUMENTS]" >&2; exit 2; }
RUN=$1
shift
if [[ -f $RUN/config.yaml ]]; then exec segray train --resume "$RUN"; fi
exec segray train "$@" --run "$RUN"
