#!/usr/bin/env bash
# Set this host up: setup.sh COMMIT EXTRAS BUCKET SHARED. What is there already is left alone.
source "$(dirname "$0")/common.sh"

commit=$1 extras=$2 bucket=${3:-} shared=${4:-}
export LC_ALL=C
tar -tzf ../code.tar.gz | sed '/\/$/d' | sort >.run/files.new
[[ ! -f .run/files ]] || comm -23 .run/files .run/files.new | xargs -r -d '\n' rm -f -- # what this commit has no more
mv .run/files.new .run/files

if [[ -n $bucket ]] && ! mountpoint -q "$shared"; then
  if ! command -v gcsfuse >/dev/null; then
    repository="https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -c -s) main"
    key=/usr/share/keyrings/cloud.google.asc
    curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $repository" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    wait=(-qq -o DPkg::Lock::Timeout=600) # a new machine installs its own updates first
    sudo apt-get "${wait[@]}" update
    sudo apt-get "${wait[@]}" install -y gcsfuse
  fi
  sudo mkdir -p "$shared"
  sudo chown "$(id -u)" "$shared"
  # a checkpoint is complete when its directory gets its name, which gcsfuse refuses unless it is given a limit
  gcsfuse --implicit-dirs --rename-dir-limit=200000 "$bucket" "$shared"
fi

# the TPU's runtime starts and ends sooner, and JAX warns where it is off
sudo sh -c 'echo always >/sys/kernel/mm/transparent_hugepage/enabled' ||
  echo "transparent huge pages cannot be switched on here: JAX starts more slowly, and may warn of it"

PATH=$HOME/.local/bin:$PATH
command -v uv >/dev/null || python3 -m pip install --quiet --user uv
[[ -x .venv/bin/python ]] || uv venv --quiet --allow-existing --python 3.12 .venv
uv pip install --quiet --python .venv/bin/python -e ".[$extras]" "jax[tpu]"
echo "$commit $extras" >.run/ready
