//! Whose the time of a picture is: shares of functions without what they call.

use std::fmt;

/// Whose a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// What the C library's function does is done by the kernel.
    System,
    Nginx,
    Weir,
    Wasmtime,
    Guest,
    /// The C library, Rust's, the allocator, and what is not known.
    Library,
}

/// All owners, and what they are called.
const OWNERS: [(Owner, &str); 6] = [
    (Owner::System, "system calls"),
    (Owner::Nginx, "nginx"),
    (Owner::Weir, "Weir"),
    (Owner::Wasmtime, "wasmtime"),
    (Owner::Guest, "guest"),
    (Owner::Library, "libraries"),
];

/// Functions of the C library that hardly do more than enter the kernel.
const SYSTEM_CALLS: [&str; 42] = [
    "accept",
    "accept4",
    "close",
    "connect",
    "epoll_ctl",
    "epoll_wait",
    "fstat",
    "fstat64",
    "fstatat",
    "fstatat64",
    "getsockopt",
    "ioctl",
    "lseek",
    "lseek64",
    "lstat",
    "madvise",
    "mmap",
    "mmap64",
    "munmap",
    "open",
    "open64",
    "openat",
    "openat64",
    "pread",
    "pread64",
    "pwrite",
    "pwrite64",
    "read",
    "readv",
    "recv",
    "recvfrom",
    "recvmsg",
    "send",
    "sendfile",
    "sendfile64",
    "sendmsg",
    "setsockopt",
    "shutdown",
    "socket",
    "stat",
    "write",
    "writev",
];

impl Owner {
    /// Of a frame as folded stacks have it.
    fn of(frame: &str) -> Self {
        if frame.ends_with(super::GUEST) {
            return Self::Guest;
        }
        // A method's name begins with its type's, `<a::B as c::D>::e`, which may be a reference.
        let name = frame.trim_start_matches(['<', '&', '(', '*']);
        let is_of = |crates: &[&str]| crates.iter().any(|name_of| name.starts_with(name_of));
        if frame.ends_with("_[k]") || SYSTEM_CALLS.contains(&name) {
            Self::System
        } else if is_of(&["weir_core::", "ngx_http_weir_module::"]) {
            Self::Weir
        } else if is_of(&["wasmtime", "trampoline"]) {
            Self::Wasmtime
        } else if is_of(&["ngx_"]) {
            Self::Nginx
        } else {
            Self::Library
        }
    }
}

/// How much time is whose.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Shares([u64; OWNERS.len()]);

impl Shares {
    /// Of stacks, one in a line, with a time at its end.
    pub(super) fn of(folded: &[String]) -> Self {
        let mut shares = Self::default();
        for line in folded {
            let Some((stack, time)) = line.rsplit_once(' ') else { continue };
            let owner = Owner::of(stack.rsplit(';').next().unwrap_or(stack));
            for (sum, (of, _)) in shares.0.iter_mut().zip(OWNERS) {
                *sum += if of == owner { time.parse().unwrap_or(0) } else { 0 };
            }
        }
        shares
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.iter().sum::<u64>().max(1);
        for (at, (sum, (_, name))) in self.0.iter().zip(OWNERS).enumerate() {
            let tenths = (sum * 1000 + all / 2) / all;
            write!(f, "{}{name} {}.{} %", if at == 0 { "" } else { ", " }, tenths / 10, tenths % 10)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Shares;

    #[test]
    fn each_function_counts_for_whom_it_belongs_to() {
        let folded = [
            "main;ngx_worker_process_cycle;writev 500",
            "main;ngx_http_handler;entry_SYSCALL_64_[k] 100",
            "main;ngx_http_handler 100",
            "main;ngx_http_handler;<weir_core::chain::Chain<H>>::finish 40",
            "main;ngx_http_handler;<ngx_http_weir_module::host::Ngx as weir_core::host::Host>::log 10",
            "main;weir_core::a;wasmtime::runtime::func::invoke;trampoline;proxy_on_log_[j] 120",
            "main;weir_core::a;wasmtime::runtime::func::invoke 30",
            "main;weir_core::a;trampoline 20",
            "main;weir_core::a;trampoline;proxy_on_log_[j];<&[u8] as core::fmt::Debug>::fmt 50",
            "main;[libc.so.6] 30",
        ];
        let shares = Shares::of(&folded.map(str::to_owned));
        assert_eq!(
            shares.to_string(),
            "system calls 60.0 %, nginx 10.0 %, Weir 5.0 %, wasmtime 5.0 %, guest 12.0 %, libraries 8.0 %"
        );
        assert!(Shares::of(&[]).to_string().starts_with("system calls 0.0 %"));
    }
}
