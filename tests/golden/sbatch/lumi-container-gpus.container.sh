#!/bin/bash
# bash container.sh COMMAND: runs it inside the container
fail() { echo "rayslurm: $1 on $(uname -n): $2" >&2 && exit 64; }
command -v singularity >/dev/null ||
  fail 'there is no singularity' 'load what brings it in environment, or write container.command in the spec'
[ -e '/appl/local/laifs/containers/ray.sif' ] || fail 'there is no /appl/local/laifs/containers/ray.sif' 'correct container.image in the spec'

options=(
  --bind "/scratch/project_2001234/maija/rayslurm"
  --bind "/projappl/project_2001234/maija/venv"
)
[[ $PWD/ == "/scratch/project_2001234/maija/rayslurm"/* ]] || options+=(--bind "$PWD")
# shellcheck disable=SC2016
activate='
  [ -x "$0/bin/python" ] || {
    echo "rayslurm: there is no venv $0 inside the container: make it there, or correct venv in the spec" >&2
    exit 64
  }
  unset PYTHONHOME
  export VIRTUAL_ENV="$0" PATH="$0/bin:$PATH"
  exec "$@"'
exec singularity exec "${options[@]}" '/appl/local/laifs/containers/ray.sif' bash -c "$activate" '/projappl/project_2001234/maija/venv' "$@"
