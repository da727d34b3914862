# What the scripts beside this file share. It is sourced, not run: it goes to the repository's root, and gives functions
# for progress lines, for installing what is missing, for finding a free port, and for measuring.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# cargo reads .cargo/config.toml from the directory it is called in.
cd "$root"
# Where HOME is not set, bash still knows it; what the scripts call may not.
export HOME=${HOME:-~}
# rustup puts cargo there, and into the PATH of later logins only.
if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
    export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi

# One target directory for everything, so that nothing is compiled twice.
export CARGO_TARGET_DIR=$root/target
edge=$root/target/edge
sanitized=$root/target/sanitized
counting=$root/target/counting
guests=$root/target/guests
tools=$root/target/tools
# The scripts that call this one have these for their own use.
: "$edge" "$sanitized" "$counting" "$guests" "$tools"

# Prints a line of progress.
say() {
    printf '==> %s\n' "$*" >&2
}

# Prints a sentence that says what is wrong, and ends the script.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root.
as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Installs the named Debian packages, or their newest versions if they are installed.
apt_install() {
    local name known unknown=()
    if [[ $(id -u) != 0 ]] && ! command -v sudo >/dev/null; then
        die "installing packages needs root, or sudo. Have somebody run this as root, then run this script again:
    apt-get update && apt-get install --no-install-recommends $*"
    fi
    say "installing: $*"
    as_root apt-get -q update </dev/null >&2
    known=" $(LC_ALL=C apt-cache policy "$@" |
        awk '/^[^ ]/ { sub(/:$/, ""); name = $0 } /^  Candidate: [^(]/ { printf "%s ", name }')"
    for name in "$@"; do
        [[ $known == *" $name "* ]] || unknown+=("$name")
    done
    if ((${#unknown[@]})); then
        die "apt does not have these packages: ${unknown[*]}
    The scripts know Debian 12 and 13. If this is one of them, see above whether apt could read all of its sources."
    fi
    # Nothing that somebody has chosen to install goes: rustc-web, for one, would take the place of Debian's rustc.
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y install --no-install-recommends --no-remove "$@" </dev/null >&2 ||
        die "apt-get did not install these packages; it says why above: $*"
}

# Installs those of the named Debian packages that are missing; if none is, it asks dpkg and nothing else.
install_packages() {
    local name known missing=()
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian system: make sure that you have what these packages hold: $*"
        return 0
    fi
    known=" $(dpkg-query -W -f='${db:Status-Status}:${Package} ' "$@" 2>/dev/null || true)"
    for name in "$@"; do
        [[ $known == *" installed:$name "* ]] || missing+=("$name")
    done
    if ((${#missing[@]})); then
        apt_install "${missing[@]}"
    fi
}

# Whether a version, numbers with dots between them, is another one or a later one.
is_at_least() {
    printf '%s\n' "$2" "$1" | sort --version-sort --check=quiet
}

# Makes sure of cargo, and of those of its commands that are named.
require_cargo() {
    local component
    command -v cargo >/dev/null ||
        die "cargo is missing: install rustup (https://rustup.rs) with its default toolchain, then run this again"
    for component in "$@"; do
        cargo "$component" --version >/dev/null 2>&1 ||
            die "cargo $component is missing: run 'rustup component add ${component/fmt/rustfmt}', then run this again"
    done
}

# Installs a tool at a fixed version from the Python Package Index into target/tools, where its command then is.
# Usage: install_tool NAME==VERSION
install_tool() {
    local stamp=$tools/.installed/$1
    if [[ -e $stamp ]]; then
        return 0
    fi
    say "installing $1 into target/tools"
    if [[ ! -x $tools/bin/pip ]]; then
        "$(python)" -m venv "$tools" >&2
    fi
    "$tools/bin/pip" --disable-pip-version-check -q install "$1" >&2
    mkdir -p "$tools/.installed"
    touch "$stamp"
}

# Prints the path of the Python that the Debian packages belong to, or else of the first one.
python() {
    if [[ -x /usr/bin/python3 ]]; then
        echo /usr/bin/python3
    else
        command -v python3 || die "python3 is missing"
    fi
}

# Copies a file into place if it differs. The new one is whole before it takes the old one's name, so a process that has
# the old one mapped keeps it.
install_file() {
    local from=$1 to=$2
    if cmp -s "$from" "$to"; then
        return 0
    fi
    mkdir -p "$(dirname "$to")"
    cp -p "$from" "$to.new.$$"
    mv -f "$to.new.$$" "$to"
}

# Whether every file named after the first is older than it; a missing first file is not up to date.
is_newer() {
    local made=$1 source
    shift
    for source in "$@"; do
        [[ $made -nt $source ]] || return 1
    done
}

# Prints a TCP port, below those that the kernel hands out by itself, on which nothing listens.
free_port() {
    local port entry
    while :; do
        port=$((RANDOM % 20000 + 10000))
        printf -v entry ':%04X ' "$port"
        if ! grep -qsF "$entry" /proc/net/tcp /proc/net/tcp6; then
            echo "$port"
            return 0
        fi
    done
}

# Sets `cores` to the numbers of the cores that the script may use; ends with an error if there is only one.
# Usage: find_cores 'one for the worker, one for wrk'
find_cores() {
    local part core
    cores=()
    for part in $(sed -n 's/^Cpus_allowed_list:\t//p' /proc/self/status | tr , ' '); do
        for ((core = ${part%-*}; core <= ${part#*-}; core++)); do
            cores+=("$core")
        done
    done
    ((${#cores[@]} >= 2)) || die "this needs two cores: $1"
}

# Prints the CPU time, in ns, that all threads of a process have used (schedstat).
cpu_time() {
    cat "/proc/$1"/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}

# Prints the median of numbers, the lowest and the highest.
middle() {
    sort -n |
        awk '{ v[NR] = $1 } END { m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2; print m, v[1], v[NR] }'
}

# Prints a field of what rustc says of itself.
rustc_field() {
    rustc -vV | sed -n "s/^$1: //p"
}

# Prints the path of the llvm-profdata that knows the format of this rustc's LLVM.
find_profdata() {
    local tool
    tool=${LLVM_PROFDATA:-$(rustc --print sysroot)/lib/rustlib/$(rustc_field host)/bin/llvm-profdata}
    [[ -x $tool ]] || die "llvm-profdata is missing: run 'rustup component add llvm-tools', or install that of LLVM \
$(rustc_field 'LLVM version') and name it in LLVM_PROFDATA; then run this again"
    echo "$tool"
}

# Merges what programs have counted, FOLDER/*.profraw, for the compiler.
# Usage: merge_counts LLVM-PROFDATA FOLDER RESULT
merge_counts() {
    # The compiler takes for hot what has most of all counts, and compiling filters takes billions of steps. It has to be
    # told that requests are what matters.
    local compiles='cranelift|regalloc2|wasmparser|wasm_encoder|wasmtime_environ|gimli'
    "$1" merge --sparse --no-function="$compiles" --output "$2/requests" "$2"/*.profraw >&2
    "$1" merge --sparse --function="$compiles" --output "$2/compiling" "$2"/*.profraw >&2
    "$1" merge --sparse --weighted-input="100,$2/requests" --weighted-input="1,$2/compiling" --output "$3"
}
