//! The devices allow-list on cgroup v2, which has no devices controller: a small BPF program on the container's cgroup.
//!
//! On cgroup v1 libcontainer writes the list into the devices controller itself.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Spec};

use crate::process::check;

/// A rule that allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allow {
    /// `BPF_DEVCG_DEV_*`; `None` for both kinds.
    kind: Option<i32>,
    /// `BPF_DEVCG_ACC_*`.
    access: i32,
    major: Option<i32>,
    minor: Option<i32>,
}

/// One instruction of the kernel's virtual machine.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const EVERYTHING: i32 = MKNOD | READ | WRITE;

/// `*(u32 *)(source + offset)`
const LOAD_WORD: u8 = 0x61;
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNLESS_IMMEDIATE: u8 = 0x55;
const JUMP_UNLESS_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// Attaches the specification's list to the container's cgroup, where that is one of version 2.
pub fn confine(spec: &Spec, cgroups: &[PathBuf]) -> Result<(), String> {
    let [cgroup] = cgroups else { return Ok(()) };
    if !cgroup.join("cgroup.controllers").exists() {
        return Ok(());
    }
    let rules = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref())
        .and_then(|all| all.devices().as_ref());
    let allowed = allowed(rules.map_or(&[], Vec::as_slice));
    if allowed.iter().any(|rule| {
        rule.kind.is_none()
            && rule.access == EVERYTHING
            && rule.major.is_none()
            && rule.minor.is_none()
    }) {
        return Ok(());
    }
    attach(&program(&allowed), cgroup)
        .map_err(|error| format!("confine devices of {}: {error}", cgroup.display()))
}

/// What is allowed. The list denies everything first and only allows after that, as the kubelet writes it.
fn allowed(rules: &[LinuxDeviceCgroup]) -> Vec<Allow> {
    let mut allowed = Vec::new();
    for rule in rules {
        if !rule.allow() {
            allowed.clear();
            continue;
        }
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
            _ => None,
        };
        let access = rule
            .access()
            .as_deref()
            .unwrap_or("rwm")
            .chars()
            .fold(0, |access, letter| {
                access
                    | match letter {
                        'r' => READ,
                        'w' => WRITE,
                        'm' => MKNOD,
                        _ => 0,
                    }
            });
        let number = |number: Option<i64>| {
            number
                .filter(|number| *number >= 0)
                .and_then(|number| i32::try_from(number).ok())
        };
        allowed.push(Allow {
            kind,
            access,
            major: number(rule.major()),
            minor: number(rule.minor()),
        });
    }
    allowed
}

/// Answers 1 for what is allowed, else 0. Registers: 2 kind, 3 access, 4 major, 5 minor.
fn program(allowed: &[Allow]) -> Vec<Instruction> {
    let instruction = |code, destination: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    };
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in allowed {
        let mut block = Vec::new();
        if let Some(kind) = rule.kind {
            block.push(instruction(JUMP_UNLESS_IMMEDIATE, 2, 0, 0, kind));
        }
        if rule.access != EVERYTHING {
            // All that is wanted must be in the rule.
            block.push(instruction(MOVE_REGISTER, 1, 3, 0, 0));
            block.push(instruction(AND_IMMEDIATE, 1, 0, 0, rule.access));
            block.push(instruction(JUMP_UNLESS_REGISTER, 1, 3, 0, 0));
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                block.push(instruction(JUMP_UNLESS_IMMEDIATE, register, 0, 0, number));
            }
        }
        block.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, 1));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (position, jump) in block.iter_mut().enumerate() {
            if matches!(jump.code, JUMP_UNLESS_IMMEDIATE | JUMP_UNLESS_REGISTER) {
                // To the next rule; blocks are a few instructions long.
                jump.offset = i16::try_from(length - position - 1).unwrap_or(i16::MAX);
            }
        }
        program.extend(block);
    }
    program.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

/// `union bpf_attr` as far as loading goes.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
}

/// `union bpf_attr` as far as attaching goes.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn attach(program: &[Instruction], cgroup: &Path) -> io::Result<()> {
    const PROG_LOAD: libc::c_int = 5;
    const PROG_ATTACH: libc::c_int = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let directory = std::fs::File::open(cgroup)?;
    let load = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the attribute has the kernel's layout, and its pointers and lengths are those of living values.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, size_of::<Load>()) };
    check(loaded)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let loaded = unsafe { OwnedFd::from_raw_fd(i32::try_from(loaded).map_err(io::Error::other)?) };
    let attach = Attach {
        target: directory.as_raw_fd().cast_unsigned(),
        program: loaded.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: as above. The cgroup keeps the program.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attach, size_of::<Attach>()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NULL: Allow = Allow {
        kind: Some(CHARACTER),
        access: EVERYTHING,
        major: Some(1),
        minor: Some(3),
    };
    const NODES: Allow = Allow {
        kind: Some(CHARACTER),
        access: MKNOD,
        major: None,
        minor: None,
    };

    /// Runs the program as the kernel would.
    fn run(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> i64 {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_i64; 11];
        let mut at = 0_usize;
        loop {
            let Instruction {
                code,
                registers: both,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            at += 1;
            let jump = match code {
                LOAD_WORD => {
                    registers[to] = i64::from(context[usize::try_from(offset).unwrap() / 4]);
                    false
                }
                MOVE_IMMEDIATE => {
                    registers[to] = i64::from(immediate);
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                AND_IMMEDIATE => {
                    registers[to] &= i64::from(immediate);
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= immediate;
                    false
                }
                JUMP_UNLESS_IMMEDIATE => registers[to] != i64::from(immediate),
                JUMP_UNLESS_REGISTER => registers[to] != registers[from],
                EXIT => return registers[0],
                other => panic!("unknown instruction {other:#x}"),
            };
            if jump {
                at += usize::try_from(offset).unwrap();
            }
        }
    }

    #[test]
    fn only_what_is_listed() {
        let program = program(&[NODES, NULL]);
        for (kind, access, major, minor, want) in [
            (CHARACTER, READ | WRITE, 1, 3, 1),
            (CHARACTER, READ, 1, 5, 0),
            (CHARACTER, MKNOD, 9, 9, 1),
            (CHARACTER, MKNOD | READ, 9, 9, 0),
            (BLOCK, MKNOD, 8, 0, 0),
            (BLOCK, READ, 1, 3, 0),
        ] {
            assert_eq!(
                run(&program, kind, access, major, minor),
                want,
                "{kind} {access} {major}:{minor}"
            );
        }
    }

    #[test]
    fn the_kernel_takes_it() {
        let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .map(Path::new);
        let mut unified = unified;
        let Some(root) = unified.find(|path| path.join("cgroup.controllers").exists()) else {
            eprintln!("SKIPPED: needs a cgroup v2 hierarchy");
            return;
        };
        let cgroup = root.join(format!("keelson-devices-{}", std::process::id()));
        if std::fs::create_dir(&cgroup).is_err() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let attached = attach(&program(&[NULL]), &cgroup);
        // A child of the shell's joins; it may use null, but not zero.
        let script = format!(
            "echo $$ > {}/cgroup.procs; : < /dev/null && ! (: < /dev/zero)",
            cgroup.display()
        );
        let status = std::process::Command::new("sh")
            .args(["-c", &script])
            .stderr(std::process::Stdio::null())
            .status();
        std::fs::remove_dir(&cgroup).unwrap();
        attached.unwrap();
        assert!(status.unwrap().success());
    }
}
