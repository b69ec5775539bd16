#!/usr/bin/env bash
# Install system packages, create a virtual environment, and install the locked requirements and this repository's
# packages into it.
#
# Usage: envs/setup.sh [--users | --cuda12] [--without-ffcv] VENV
#   VENV             folder of the virtual environment, or of the active conda environment ("$CONDA_PREFIX")
#   --users          only what mem needs, without tests, linters and documentation
#   --cuda12         as --users, with torch for CUDA 12, for NVIDIA drivers before version 580
#   --without-ffcv   without FFCV and without a compiler: the same files and pixels, and slower decoding
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null; }

lock=requirements-dev ffcv=yes venv=
for argument in "$@"; do
    case $argument in
        --users) lock=requirements ;;
        --cuda12) lock=requirements-cuda12 ;;
        --without-ffcv) ffcv=no ;;
        -*) say "Unknown option: $argument. Expected --users, --cuda12 or --without-ffcv." && exit 2 ;;
        *) venv=$argument ;;
    esac
done
[ -n "$venv" ] || { say "Usage: envs/setup.sh [--users | --cuda12] [--without-ffcv] VENV" && exit 2; }

# --- Python -------------------------------------------------------------------
python=
for candidate in "${PYTHON:-}" "$venv/bin/python" python3.11 python3.12 python3.13 python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    say "mem requires Python 3.11, 3.12 or 3.13, but none of python3.11, python3.12, python3.13 and python3 is one of these."
    say "Install one of them, or pass the path of an installation: make setup PYTHON=/path/to/python3.12"
    say "Without root, conda can install one: conda create -n mem python=3.11 && conda activate mem"
    exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# --- system packages: FFCV is compiled against OpenCV and libjpeg-turbo, mem against libjpeg-turbo ----
conda= # the base environment, which other environments share, is not changed
if [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != base ] && "$python" -c 'import os, sys; sys.exit(not sys.prefix.startswith(os.environ["CONDA_PREFIX"]))'; then
    for tool in mamba micromamba conda; do
        if have $tool; then conda=$tool && break; fi
    done
fi
manager=none
if [ -n "$conda" ]; then
    manager=conda # needs no root
elif have apt-get; then
    manager=apt
elif have dnf; then
    manager=dnf
fi

missing() { # what is missing of: venv, and, for compiling, compiler, headers, pkg-config, opencv, turbojpeg, jpeg
    "$python" -c 'import ensurepip' 2>/dev/null || [ -x "$venv/bin/python" ] || echo venv
    [ $ffcv = yes ] || return 0
    have g++ || have "${CXX:-g++}" || echo compiler
    [ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || echo headers
    have pkg-config || echo pkg-config
    pkg-config --exists opencv4 2>/dev/null || echo opencv
    pkg-config --exists libturbojpeg 2>/dev/null || echo turbojpeg
    pkg-config --exists libjpeg 2>/dev/null || echo jpeg
}

package() { # name of the package with a missing part
    case $manager:$1 in
        apt:compiler) echo g++ ;;
        apt:headers) echo "python$version-dev" ;;
        apt:venv) echo "python$version-venv" ;;
        apt:pkg-config) echo pkg-config ;;
        apt:opencv) echo libopencv-dev ;;
        # The TurboJPEG headers are in libturbojpeg0-dev on Debian, and in libturbojpeg0-dev or libturbojpeg-dev on Ubuntu.
        apt:turbojpeg) if apt-cache show libturbojpeg0-dev >/dev/null 2>&1; then echo libturbojpeg0-dev; else echo libturbojpeg-dev; fi ;;
        apt:jpeg) echo libjpeg-dev ;;
        dnf:compiler) echo gcc-c++ ;;
        dnf:headers) if [ "$python" = python3 ]; then echo python3-devel; else echo "python$version-devel"; fi ;;
        dnf:venv) echo "python$version" ;;
        dnf:pkg-config) echo pkgconf-pkg-config ;;
        dnf:opencv) echo opencv-devel ;;
        dnf:turbojpeg) echo turbojpeg-devel ;;
        dnf:jpeg) echo libjpeg-turbo-devel ;;
        conda:compiler) echo cxx-compiler ;;
        conda:opencv) echo libopencv=4 ;;
        conda:turbojpeg | conda:jpeg) echo libjpeg-turbo ;;
        *) echo "$1" ;;
    esac
}

install() { # install packages, quietly
    case $manager in
        apt) DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ;;
        dnf) dnf install -y --quiet "$@" >/dev/null ;;
        conda) "$conda" install --yes --quiet --prefix "$CONDA_PREFIX" --channel conda-forge "$@" >/dev/null ;;
    esac
}

advise() { # what to do where system packages cannot be installed
    case $manager in
        apt) say "  with root:      sudo apt-get install $*" ;;
        dnf)
            say "  with root:      sudo dnf install $*"
            say "                  On Rocky Linux, first: sudo dnf install epel-release && sudo dnf config-manager --set-enabled crb"
            ;;
        conda) say "  again:          $conda install --channel conda-forge $*" ;;
        none) say "  with root:      install a C++ compiler, pkg-config, and the headers of Python, OpenCV 4 and libjpeg-turbo" ;;
    esac
    # shellcheck disable=SC2016
    [ $manager = conda ] || say '  without root:   conda env create -f envs/environment.yaml && conda activate mem && envs/setup.sh "$CONDA_PREFIX"'
}

packages_for() { for part in "$@"; do package "$part"; done | sort -u | tr '\n' ' '; }

read -ra parts <<<"$(missing | tr '\n' ' ')" || true
if [ ${#parts[@]} -gt 0 ] && [ $manager != none ] && { [ "$(id -u)" = 0 ] || [ $manager = conda ]; }; then
    [ $manager != apt ] || apt-get update -qq || say "The lists of packages could not be updated."
    read -ra packages <<<"$(packages_for "${parts[@]}")"
    say "Installing system packages: ${packages[*]}"
    install "${packages[@]}" || say "Not all of these packages could be installed."
    if [ $manager = conda ]; then # the compiler's variables, which conda sets when an environment is activated
        set +u
        for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
            # shellcheck disable=SC1090
            [ ! -f "$script" ] || . "$script"
        done
        set -u
    fi
    read -ra parts <<<"$(missing | tr '\n' ' ')" || true
fi
if [ ${#parts[@]} -gt 0 ]; then
    say "Missing: ${parts[*]}. To install what is missing:"
    # shellcheck disable=SC2046
    advise $(packages_for "${parts[@]}")
    if [[ " ${parts[*]} " = *" venv "* ]]; then
        say "A virtual environment cannot be created without the module ensurepip of Python."
        exit 1
    fi
    say "Continuing without FFCV. Files and pixels are the same, and decoding is slower; see"
    say "docs/how-to/install-without-compiler.md. To install FFCV later, install what is missing and run this again."
    ffcv=no
fi
# Install the Fashion-MNIST images, which only the Fashion-MNIST studies and their tests require.
if [ $manager = apt ] && [ "$(id -u)" = 0 ] && [ ! -d /usr/share/datasets/fashion-mnist ]; then
    install dataset-fashion-mnist 2>/dev/null \
        || say "The package dataset-fashion-mnist is not available. To use Fashion-MNIST from a different folder, see config/fashion_lt.yaml."
fi

# --- Python packages: only files whose SHA-256 is in the lock files ----------------
say "Installing Python packages into $venv (about 6 GB including CUDA; this takes a few minutes)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip_install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
locked() { pip_install --require-hashes "${@/#/--requirement=envs/}"; }
if [ $ffcv = yes ] && ! locked "$lock.txt" requirements-ffcv.txt; then
    say "FFCV could not be installed; the reason is above. Continuing without FFCV, with the same pixels and slower decoding."
    ffcv=no
fi
[ $ffcv = yes ] || locked "$lock.txt"
pip_install --no-deps --editable . --editable ./cluster/snakemake-executor-plugin-submitit
say "Ready: $("$venv/bin/mem" --version) with Python $version in $venv$([ $ffcv = yes ] || echo ', without FFCV')"
