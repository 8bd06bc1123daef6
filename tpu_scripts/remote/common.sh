# shellcheck shell=bash
# What the programs that run on a TPU's hosts have in common. To be sourced.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p .run

# Whether anything of a process group is still alive; what only waits to be buried is not.
alive() { ps -eo pgid=,stat= | awk -v group="$1" '$1 == group && $2 !~ /^Z/ { found = 1 } END { exit !found }'; }
running() { [[ -f .run/pid && ! -f .run/exit ]] && alive "$(<.run/pid)"; }
