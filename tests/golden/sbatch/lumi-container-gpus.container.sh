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
command -v singularity >/dev/null ||
  fail 'there is no singularity' 'load what brings it in environment, or write container.command in the spec'
[ -e '/appl/local/laifs/containers/ray.sif' ] || fail 'there is no /appl/local/laifs/containers/ray.sif' 'correct container.image in the spec'

options=(
  --bind "/scratch/project_2001234/maija/rayslurm"
)
[ ! -e '/projappl/project_2001234/maija/venv' ] || options+=(--bind '/projappl/project_2001234/maija/venv') # else it is the image's
[[ $PWD/ == "/scratch/project_2001234/maija/rayslurm"/* ]] || options+=(--bind "$PWD")
# shellcheck disable=SC2016
enter='
  IFS= read -r -d "" rayslurm_passed
  if [ -z "$rayslurm_passed" ]; then
    echo "rayslurm: singularity does not pass standard input, where the variables of the job come from: add the option that does to container.options" >&2
    exit 64
  fi
  eval "$rayslurm_passed"
  unset rayslurm_passed
  [ -x "$0/bin/python" ] || {
    echo "rayslurm: there is no venv $0 inside the container: make it there, or correct venv in the spec" >&2
    exit 64
  }
  unset PYTHONHOME
  export VIRTUAL_ENV="$0" PATH="$0/bin:$PATH"
  exec "$@" </dev/null'
exec singularity exec "${options[@]}" '/appl/local/laifs/containers/ray.sif' bash -c "$enter" '/projappl/project_2001234/maija/venv' "$@" <<<"$rayslurm_passed"
