#!/usr/bin/env bash
# Install system packages, create a virtual environment, and install the pinned requirements and this repository's
# packages into it.
# Usage: envs/setup.sh VENV
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1

say() { printf '%s\n' "$*" >&2; }

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# --- Python -------------------------------------------------------------------
python=
for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    say "mem requires Python 3.11 or 3.12, but none of python3.11, python3.12 and python3 has one of these versions."
    say "Install Python 3.11 or 3.12, or pass the path of an installation: make setup PYTHON=/path/to/python3.12"
    exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# --- system packages: FFCV is compiled against OpenCV and libjpeg-turbo, mem against libjpeg-turbo ----
missing_packages() {
    local missing=()
    command -v g++ >/dev/null || missing+=(g++)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    pkg-config --exists opencv4 2>/dev/null || missing+=(libopencv-dev)
    pkg-config --exists libturbojpeg 2>/dev/null || missing+=(libturbojpeg0-dev)
    pkg-config --exists libjpeg 2>/dev/null || missing+=(libjpeg-dev)
    [ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+=("python$version-dev")
    "$python" -c 'import ensurepip' 2>/dev/null || missing+=("python$version-venv")
    printf '%s ' "${missing[@]}"
}
read -ra missing <<<"$(missing_packages)" || true
if [ ${#missing[@]} -gt 0 ]; then
    if can_apt; then
        say "Installing system packages: ${missing[*]}"
        apt-get update -qq
        # The TurboJPEG headers are in libturbojpeg0-dev on Debian, and in libturbojpeg0-dev or libturbojpeg-dev on Ubuntu.
        packages=()
        for package in "${missing[@]}"; do
            if [ "$package" = libturbojpeg0-dev ] && ! apt-cache show libturbojpeg0-dev >/dev/null 2>&1; then
                package=libturbojpeg-dev
            fi
            packages+=("$package")
        done
        apt_install "${packages[@]}"
    else
        say "These system packages are missing: ${missing[*]}. Install them as root, or use a conda environment:"
        say "  with root:      sudo apt install ${missing[*]}"
        say "  without root:   conda env create -f envs/environment.yaml && conda activate mem"
        say "                  then run snakemake and mem directly instead of make"
        exit 1
    fi
fi
# Install the Fashion-MNIST images, which only the Fashion-MNIST studies and their tests require.
if can_apt && [ ! -d /usr/share/datasets/fashion-mnist ]; then
    apt_install dataset-fashion-mnist 2>/dev/null \
        || say "The package dataset-fashion-mnist is not available. To use Fashion-MNIST from a different folder, see config/fashion_lt.yaml."
fi

# --- Python packages --------------------------------------------------------------
say "Installing Python packages into $venv (about 6 GB including CUDA; this takes a few minutes)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r envs/requirements.txt
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --editable . --editable ./cluster/snakemake-executor-plugin-submitit
say "Ready: $("$venv/bin/mem" --version) with Python $version in $venv"
