#!/usr/bin/env bash
# Installs Debian packages that a few tests use: a browser and a font for the report's page, the full Fashion-MNIST for its reader, the
# libraries that FFCV needs, and Slurm. Without them those tests are skipped. It installs only as root and with apt-get. Otherwise
# it names what is missing. It never fails.
set -u

packages=(chromium fonts-dejavu-core dataset-fashion-mnist g++ python3-dev pkg-config libopencv-dev libturbojpeg0-dev)
mapfile -t slurm <"$(dirname "$0")/../slurm/devcluster/packages.txt" # a real Slurm with accounting
packages+=("${slurm[@]}")
missing=()
if command -v dpkg-query >/dev/null; then
    for package in "${packages[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
else
    command -v chromium >/dev/null || missing+=(chromium)
    [[ -d /usr/share/datasets/fashion-mnist ]] || missing+=(dataset-fashion-mnist)
    for library in opencv4 libturbojpeg; do
        pkg-config --exists "$library" 2>/dev/null || missing+=("$library")
    done
    command -v slurmctld >/dev/null || missing+=("${slurm[@]}")
fi
((${#missing[@]})) || exit 0

if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # do not start the installed services: the tests start their own
    apt-get update -qq </dev/null || true
    for package in "${missing[@]}"; do
        apt-get install -y -qq --no-install-recommends "$package" </dev/null >/dev/null ||
            echo "system packages: $package could not be installed; the tests that use it are skipped."
    done
else
    echo "system packages: not installed here: ${missing[*]}; the tests that use them are skipped."
fi
exit 0
