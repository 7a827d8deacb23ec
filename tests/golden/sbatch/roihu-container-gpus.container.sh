#!/bin/bash
# bash container.sh COMMAND: runs it inside the container
rayslurm_passed=$(
  echo :
  for rayslurm_name in $(compgen -e); do
    case $rayslurm_name in
      RAY_AUTH_TOKEN | SLURM_JWT) ;;
      RAY_* | RAYSLURM_* | SLURM_* | *_VISIBLE_DEVICES | AUTOSCALER_METRIC_PORT | DASHBOARD_METRIC_PORT | TMPDIR) declare -p "$rayslurm_name" ;;
    esac
  done
)
fail() { echo "rayslurm: $1 on $(uname -n): $2" >&2 && exit 64; }
command -v apptainer >/dev/null ||
  fail 'there is no apptainer' 'load what brings it in environment, or write container.command in the spec'
[ -e '/projappl/project_2001234/ray-2.60.sif' ] || fail 'there is no /projappl/project_2001234/ray-2.60.sif' 'correct container.image in the spec'

options=(
  --nv
  --bind '/scratch/project_2001234/data:/data:ro'
  --bind "/scratch/project_2001234/maija/rayslurm"
  --bind "$TMPDIR"
)
[[ $PWD/ == "/scratch/project_2001234/maija/rayslurm"/* ]] || options+=(--bind "$PWD")
# shellcheck disable=SC2016
enter='
  IFS= read -r -d "" rayslurm_passed
  if [ -z "$rayslurm_passed" ]; then
    echo "rayslurm: apptainer does not pass standard input, where the variables of the job come from: add the option that does to container.options" >&2
    exit 64
  fi
  eval "$rayslurm_passed"
  unset rayslurm_passed
  exec "$@" </dev/null'
exec apptainer exec "${options[@]}" '/projappl/project_2001234/ray-2.60.sif' bash -c "$enter" 'bash' "$@" <<<"$rayslurm_passed"
