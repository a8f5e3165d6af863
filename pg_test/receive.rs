//! `walarchive wal-receive` beside a server that archives nothing by itself.

use std::process::Command;

use walarchive_testkit::{Background, Builder, Cluster, FaultProxy, Output, PATIENCE, Signal, kill_pid};

use crate::push::server_of;
use crate::site::Site;

/// A server that archives nothing, with segments of 1 MB.
pub fn builder(site: &Site, name: &str) -> Builder {
    Cluster::builder(site.dir(), name)
        .initdb_arg("--wal-segsize=1")
        .setting("archive_mode", "off")
}

/// `walarchive wal-receive` with further arguments, for this server.
pub fn command(site: &Site, cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = site.walarchive(&["wal-receive"]);
    server_of(command.args(args), cluster);
    command
}

/// The program, with the store behind a proxy.
pub fn over(site: &Site, cluster: &Cluster, proxy: &FaultProxy) -> Command {
    let mut command = site.pg().program("walarchive");
    command.args(["wal-receive", "--storage", &site.url()]).envs(site.env());
    for option in proxy.options().split(',') {
        command.args(["--storage-option", option]);
    }
    server_of(&mut command, cluster);
    command
}

/// Starts it, and waits until it receives.
#[track_caller]
pub fn start(site: &Site, cluster: &Cluster, args: &[&str]) -> Background {
    let mut receiver = Background::spawn(&mut command(site, cluster, args), None);
    wait_receiving(cluster, &mut receiver);
    receiver
}

/// Waits until the server sends WAL to such a program.
#[track_caller]
pub fn wait_receiving(cluster: &Cluster, receiver: &mut Background) {
    cluster.wait_until("WAL is received", PATIENCE, || {
        receiver.assert_running();
        is_receiving(cluster)
    });
}

/// Does the server send WAL to such a program?
#[track_caller]
pub fn is_receiving(cluster: &Cluster) -> bool {
    cluster.psql(
        "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walarchive' AND state IN ('streaming', 'catchup')",
    ) == "1"
}

/// Ends it as a service manager does.
#[track_caller]
pub fn end(receiver: Background) -> Output {
    kill_pid(receiver.pid(), Signal::SIGTERM);
    receiver.wait(PATIENCE)
}

/// Waits until the repository, in a directory or s3s-fs, has a segment.
#[track_caller]
pub fn wait_stored(site: &Site, segment: &str) {
    walarchive_testkit::wait_until(&format!("{segment} is stored"), PATIENCE, || is_stored(site, segment));
}

/// Has the repository that segment?
pub fn is_stored(site: &Site, segment: &str) -> bool {
    site.object(&format!("wal_005/{segment}.zst")).is_file()
}
