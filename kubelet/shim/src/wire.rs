//! Packets with file descriptors over a Unix socket.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    connect, recvmsg, sendmsg, socket,
};
use nix::sys::stat::Mode;

/// Larger messages travel in a memory file, with [`IN_FILE`] in their place.
const INLINE: usize = 48 << 10;
/// Messages are at most this large.
const MAX_MESSAGE: u64 = 8 << 20;
/// Stands for a message whose text is in the first descriptor.
const IN_FILE: &[u8] = b"@";
/// Descriptors beside a message.
const MAX_FDS: usize = 8;

/// A received packet.
#[derive(Debug)]
pub struct Packet {
    /// Its text.
    pub bytes: Vec<u8>,
    /// Descriptors beside it.
    pub fds: Vec<OwnedFd>,
}

/// Sends one packet.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    if bytes.len() <= INLINE {
        return send_inline(socket, bytes, fds);
    }
    let mut file = File::from(memfd_create(c"keelson-message", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)
        .and_then(|()| file.rewind())
        .map_err(|_| Errno::ENOSPC)?;
    let mut all = vec![file.as_fd()];
    all.extend_from_slice(fds);
    send_inline(socket, IN_FILE, &all)
}

fn send_inline(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one packet; `None` at the end.
pub fn receive(socket: BorrowedFd<'_>) -> nix::Result<Option<Packet>> {
    let mut buffer = vec![0_u8; INLINE + 1];
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let (length, mut fds) = loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        match received {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(message) => {
                let mut fds = Vec::new();
                for part in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = part {
                        // SAFETY: the kernel has just made these descriptors for us.
                        fds.extend(
                            raw.into_iter()
                                .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                        );
                    }
                }
                break (message.bytes, fds);
            }
        }
    };
    if length == 0 && fds.is_empty() {
        return Ok(None);
    }
    if length > INLINE {
        return Err(Errno::EMSGSIZE);
    }
    buffer.truncate(length);
    if buffer == IN_FILE && !fds.is_empty() {
        let mut file = File::from(fds.remove(0)).take(MAX_MESSAGE + 1);
        buffer.clear();
        file.read_to_end(&mut buffer).map_err(|_| Errno::EIO)?;
        if buffer.len() as u64 > MAX_MESSAGE {
            return Err(Errno::EMSGSIZE);
        }
    }
    Ok(Some(Packet { bytes: buffer, fds }))
}

/// Connects to the socket `name` in `directory`, however long that path is.
pub fn dial(directory: &Path, name: &str) -> nix::Result<OwnedFd> {
    let directory = nix::fcntl::open(
        directory,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    let address = UnixAddr::new(path.as_str())?;
    let socket = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::socketpair;

    use super::*;

    #[test]
    fn small_and_large_with_descriptors() {
        let (left, right) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        for size in [2, 1000, INLINE, INLINE + 1, 1 << 20] {
            let text = vec![b'x'; size];
            let (read, write) = nix::unistd::pipe().unwrap();
            send(left.as_fd(), &text, &[read.as_fd()]).unwrap();
            let packet = receive(right.as_fd()).unwrap().unwrap();
            assert_eq!(packet.bytes, text);
            assert_eq!(packet.fds.len(), 1, "{size}");
            drop(read);
            nix::unistd::write(&write, b"hi").unwrap();
            let mut two = [0; 2];
            nix::unistd::read(&packet.fds[0], &mut two).unwrap();
            assert_eq!(&two, b"hi");
        }
        drop(left);
        assert!(receive(right.as_fd()).unwrap().is_none());
    }
}
