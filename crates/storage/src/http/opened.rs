//! The work at each new connection.

use std::os::fd::{AsFd, RawFd};
use std::path::Path;

use filedescriptor::FileDescriptor;
use socket2::SockRef;
use tower::util::MapResponseLayer;

/// The bytes, roughly, that a connection may hold in the kernel before they are sent. Without a limit the kernel takes a megabyte
/// and more per connection. Bytes of a backup would go before WAL that is more urgent, and on a slow link it would take half a
/// minute to see whether anything moves. A fast link does not need more: bytes that were sent, but not acknowledged, do not count.
const UNSENT: u32 = 64 << 10;

/// Set that limit for a connection. Only TCP knows this option. Other sockets refuse it, and stay as they are.
pub(crate) fn keep_little_unsent(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT);
}

/// For the builder of an HTTP client, which does not let its sockets be seen: the one that was opened is found among the sockets
/// of this process. It does no harm to the others.
pub(super) fn layer<T>() -> MapResponseLayer<fn(T) -> T> {
    MapResponseLayer::new(|connection| {
        for number in sockets() {
            // Another name of the same socket. If another thread has closed it meanwhile, there is none.
            if let Ok(socket) = FileDescriptor::dup(&number) {
                keep_little_unsent(&socket);
            }
        }
        connection
    })
}

/// The sockets that are open in this process. A file must not be among them: its locks would go with the other name.
fn sockets() -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let is_socket = |path: &Path| std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
    let number = |entry: std::fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        is_socket(&entry.path()).then_some(number)
    };
    entries.flatten().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use tower::{Layer, Service, service_fn};

    use super::*;

    #[tokio::test]
    async fn a_new_connection_holds_little() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let connect = service_fn(move |()| async move { TcpStream::connect(address) });
        let mut connector = layer().layer(connect);
        let stream = connector.call(()).await.expect("connected");
        let unsent = SockRef::from(&stream).tcp_notsent_lowat().expect("asked");
        assert_eq!(unsent, UNSENT);
        stream.peer_addr().expect("it is still open");
    }

    #[test]
    fn only_sockets_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let file = tempfile::tempfile().expect("a file");
        let found = sockets();
        assert!(found.contains(&listener.as_raw_fd()) && !found.contains(&file.as_raw_fd()));
    }
}
