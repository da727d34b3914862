//! Tells the compiler what the nginx under us was configured with, and the linker what a dynamic module needs.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // nginx-sys passes these on to direct dependents of its own; see its build/main.rs.
    values("ngx_feature", "DEP_NGINX_FEATURES", "DEP_NGINX_FEATURES_CHECK");
    values("ngx_os", "DEP_NGINX_OS", "DEP_NGINX_OS_CHECK");

    // No feature: names of functions would have another hash, which the profile of `pgo/` does not know.
    println!("cargo::rustc-check-cfg=cfg(weir_linked)");
    println!("cargo::rerun-if-env-changed={LINKED}");
    if env::var_os(LINKED).is_some() {
        println!("cargo::rustc-cfg=weir_linked");
    }

    // The module is never unmapped, not even by a reload that no longer loads it: wasmtime's signal handlers stay
    // installed in the process, and thread-local destructors may still be pending.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // nginx's own functions come from the process that loads the module. Unit tests call none of them.
    println!("cargo::rustc-link-arg=-Wl,--unresolved-symbols=ignore-all");
}

/// Set where nginx's own makefile links the library (`config.make`), which makes the table of modules then.
const LINKED: &str = "WEIR_LINKED";

/// What is left out of the lists, separated by commas: so that the code for an nginx without it can be checked without
/// building one (`scripts/lint`).
const WITHOUT: &str = "WEIR_CHECK_WITHOUT";

/// Declares `cfg(name = "…")` with all values in `checked`, and sets those in `set` (both lists separated by commas).
fn values(name: &str, set: &str, checked: &str) {
    println!("cargo::rerun-if-env-changed={set}");
    println!("cargo::rerun-if-env-changed={checked}");
    println!("cargo::rerun-if-env-changed={WITHOUT}");
    let without = env::var(WITHOUT).unwrap_or_default();
    let is_left_out = |value: &str| without.split(',').any(|left_out| left_out == value);
    // The list of possible values comes quoted already.
    let possible = env::var(checked).unwrap_or_else(|_| "any()".into());
    println!("cargo::rustc-check-cfg=cfg({name}, values({possible}))");
    let values = env::var(set).unwrap_or_default();
    for value in values.split(',').map(str::trim).filter(|value| !value.is_empty() && !is_left_out(value)) {
        println!("cargo::rustc-cfg={name}=\"{value}\"");
    }
}
