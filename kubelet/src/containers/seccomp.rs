//! The default seccomp profile, and profiles from the node's files.
//!
//! What is not listed answers EPERM. The table says which system calls any container may make, and which ones come with
//! a capability.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

/// Allowed for every container.
const ALWAYS: &str = "
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32
getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen
listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat
_newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll
ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid
setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid
setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat
shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice
stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64
ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid
waitpid write writev process_vm_readv process_vm_writev ptrace arch_prctl modify_ldt";

/// Allowed with a capability.
const WITH_CAPABILITY: [(&str, &str); 11] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "iopl ioperm"),
    (
        "SYS_TIME",
        "settimeofday stime clock_settime clock_settime64",
    ),
    ("SYS_TTY_CONFIG", "vhangup"),
    (
        "SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
];

/// Allowed with CAP_SYSLOG, CAP_BPF or CAP_PERFMON as newer kernels split CAP_SYS_ADMIN.
const SPLIT: [(&str, &str); 3] = [
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

/// clone(2)'s flags for new namespaces.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// Execution domains that personality(2) may choose, and its query.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The address family of virtual machine sockets: not namespaced.
const AF_VSOCK: u64 = 40;

/// The default profile for a container with these capabilities (without `CAP_`), as OCI's `linux.seccomp`.
pub fn default_profile(capabilities: &BTreeSet<String>) -> Value {
    let mut names: BTreeSet<&str> = ALWAYS.split_whitespace().collect();
    for (capability, more) in WITH_CAPABILITY.iter().chain(&SPLIT) {
        if capabilities.contains(*capability) {
            names.extend(more.split_whitespace());
        }
    }
    let mut rules = vec![
        json!({"names": names, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW",
               "args": [{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"}]}),
    ];
    for domain in PERSONALITIES {
        rules.push(json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                          "args": [{"index": 0, "value": domain, "op": "SCMP_CMP_EQ"}]}));
    }
    if !names.contains("clone") {
        rules.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                          "args": [{"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}));
        // A filter can't see clone3's flags; programs fall back to clone where there is no clone3.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures(),
        "syscalls": rules,
    })
}

fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    }
}

/// A profile of the node (`localhost/…`), in Docker's JSON: OCI's form plus `archMap`, and rules by capability.
pub fn from_file(path: &Path, capabilities: &BTreeSet<String>) -> Result<Value, String> {
    let text = std::fs::read(path)
        .map_err(|error| format!("cannot load seccomp profile {:?}: {error}", path.display()))?;
    let profile: Value = serde_json::from_slice(&text)
        .map_err(|error| format!("cannot parse seccomp profile {:?}: {error}", path.display()))?;
    adapt(profile, capabilities)
}

fn adapt(profile: Value, capabilities: &BTreeSet<String>) -> Result<Value, String> {
    let default = profile
        .get("defaultAction")
        .and_then(Value::as_str)
        .ok_or("the seccomp profile has no defaultAction")?;
    let has = |rule: &Value, list: &str| {
        let wanted = rule
            .get(list)
            .and_then(|list| list.get("caps"))
            .and_then(Value::as_array);
        wanted.map(|wanted| {
            wanted
                .iter()
                .filter_map(Value::as_str)
                .any(|cap| capabilities.contains(cap.trim_start_matches("CAP_")))
        })
    };
    let mut rules = Vec::new();
    for rule in profile
        .get("syscalls")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if has(rule, "includes") == Some(false) || has(rule, "excludes") == Some(true) {
            continue;
        }
        let mut kept = serde_json::Map::new();
        for key in ["names", "action", "errnoRet", "args"] {
            if let Some(value) = rule.get(key).filter(|value| !value.is_null()) {
                kept.insert(key.to_owned(), value.clone());
            }
        }
        if let Some(name) = rule.get("name").filter(|_| !kept.contains_key("names")) {
            kept.insert("names".to_owned(), json!([name]));
        }
        rules.push(Value::Object(kept));
    }
    let mut adapted = json!({"defaultAction": default, "syscalls": rules});
    for key in ["defaultErrnoRet", "flags"] {
        if let Some(value) = profile.get(key).filter(|value| !value.is_null()) {
            adapted[key] = value.clone();
        }
    }
    adapted["architectures"] = match profile
        .get("architectures")
        .filter(|value| !value.is_null())
    {
        Some(architectures) => architectures.clone(),
        None => json!(architectures()),
    };
    Ok(adapted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(profile: &Value, name: &str) -> bool {
        profile["syscalls"].as_array().unwrap().iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule.get("args").is_none()
                && rule["names"].as_array().unwrap().contains(&json!(name))
        })
    }

    #[test]
    fn capabilities_widen_the_default() {
        let plain = default_profile(&BTreeSet::new());
        for (name, want) in [
            ("read", true),
            ("mount", false),
            ("unshare", false),
            ("bpf", false),
            ("keyctl", false),
            ("io_uring_setup", false),
        ] {
            assert_eq!(allowed(&plain, name), want, "{name}");
        }
        assert!(!allowed(&plain, "clone3"));
        let admin = default_profile(&BTreeSet::from(["SYS_ADMIN".to_owned()]));
        assert!(
            allowed(&admin, "mount") && allowed(&admin, "clone3") && !allowed(&admin, "reboot")
        );
        serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(admin).unwrap();
    }

    #[test]
    fn profiles_of_the_node() {
        let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "archMap": [{"architecture": "SCMP_ARCH_X86_64"}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        ]});
        let adapted = adapt(profile.clone(), &BTreeSet::new()).unwrap();
        assert!(
            allowed(&adapted, "read") && !allowed(&adapted, "mount") && allowed(&adapted, "clone")
        );
        serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(adapted).unwrap();
        let admin = adapt(profile, &BTreeSet::from(["SYS_ADMIN".to_owned()])).unwrap();
        assert!(allowed(&admin, "mount") && !allowed(&admin, "clone"));
        assert!(adapt(json!({}), &BTreeSet::new()).is_err());
    }
}
