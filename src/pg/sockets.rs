//! The sockets of this process.

use std::os::fd::{BorrowedFd, RawFd};

use socket2::SockRef;

/// The bytes, roughly, that a connection may hold in the kernel before they are sent. Without a limit the kernel takes a megabyte and
/// more per connection. Bytes of a backup would go before WAL that is more urgent, and on a slow link it would take half a minute to
/// see whether anything moves. A fast link does not need more: bytes that were sent, but not acknowledged, do not count.
const UNSENT: u32 = 64 << 10;

/// Set that limit for the present connections of this process. Bytes that the kernel has already stay. May be called from any thread.
pub fn keep_little_unsent() {
    for fd in open_files() {
        // SAFETY: the descriptor is used for one system call. If another thread has closed it meanwhile, the call fails; if it
        // is another socket by now, that one is a connection of this process likewise.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        // Only TCP knows this option. Files and other sockets refuse it, and stay as they are.
        let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
    }
}

fn open_files() -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.flatten().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_hold_little_and_other_files_are_left_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let _file = tempfile::tempfile().expect("a file");
        let unsent = || SockRef::from(&stream).tcp_notsent_lowat().expect("asked");
        assert_ne!(unsent(), UNSENT);
        keep_little_unsent();
        assert_eq!(unsent(), UNSENT);
    }
}
