#!/usr/bin/env bash
# Sets up everything: system packages, virtual environment, pinned requirements, the package itself.
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
    say "mem needs Python 3.11 or 3.12, and found none of python3.11, python3.12, python3."
    say "Install one, or name it: make setup PYTHON=/path/to/python3.12"
    exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# --- system packages: FFCV is compiled against OpenCV and libjpeg-turbo ---------
missing() {
    local lacking=()
    command -v g++ >/dev/null || lacking+=(g++)
    command -v pkg-config >/dev/null || lacking+=(pkg-config)
    pkg-config --exists opencv4 2>/dev/null || lacking+=(libopencv-dev)
    pkg-config --exists libturbojpeg 2>/dev/null || lacking+=(libturbojpeg0-dev)
    [ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || lacking+=("python$version-dev")
    "$python" -c 'import ensurepip' 2>/dev/null || lacking+=("python$version-venv")
    printf '%s ' "${lacking[@]}"
}
read -ra lacking <<<"$(missing)" || true
if [ ${#lacking[@]} -gt 0 ]; then
    if can_apt; then
        say "Installing system packages: ${lacking[*]}"
        apt-get update -qq
        # Debian names the TurboJPEG headers libturbojpeg0-dev, Ubuntu libturbojpeg-dev or libturbojpeg0-dev.
        packages=()
        for package in "${lacking[@]}"; do
            if [ "$package" = libturbojpeg0-dev ] && ! apt-cache show libturbojpeg0-dev >/dev/null 2>&1; then
                package=libturbojpeg-dev
            fi
            packages+=("$package")
        done
        apt_install "${packages[@]}"
    else
        say "These system packages are missing, and only root can install them: ${lacking[*]}"
        say "  with root:      sudo apt install ${lacking[*]}"
        say "  without root:   conda env create -f envs/environment.yaml && conda activate mem"
        say "                  then use snakemake and mem directly, without make"
        exit 1
    fi
fi
# Fashion-MNIST's images, for config/fashion_lt.yaml and its tests; nothing else needs them.
if can_apt && [ ! -d /usr/share/datasets/fashion-mnist ]; then
    apt_install dataset-fashion-mnist 2>/dev/null \
        || say "No package dataset-fashion-mnist here; config/fashion_lt.yaml says how to name another folder."
fi

# --- Python packages --------------------------------------------------------------
say "Installing Python packages into $venv (PyTorch comes with CUDA: some 6 GB, a few minutes)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r envs/requirements.txt
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --editable . --editable ./cluster/snakemake-executor-plugin-submitit
say "Ready: $("$venv/bin/mem" --version) with Python $version in $venv"
