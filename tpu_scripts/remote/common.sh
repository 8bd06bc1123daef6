# shellcheck shell=bash
# What the programs that run on a TPU's hosts have in common. To be sourced.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p .run
# shellcheck disable=SC2034 # start.sh keeps it
BOOT=$(</proc/sys/kernel/random/boot_id)

# Whether anything of the command's process group is still alive. What only waits to be buried is not, nor is a group that
# got the same number after the host was started anew.
alive() {
  [[ -f .run/pid && -f .run/boot && $(<.run/boot) == "$BOOT" ]] || return 1
  ps -eo pgid=,stat= | awk -v group="$(<.run/pid)" '$1 == group && $2 !~ /^Z/ { found = 1 } END { exit !found }'
}
running() { [[ ! -f .run/exit ]] && alive; }
