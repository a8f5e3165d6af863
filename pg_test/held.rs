//! Recovery that waits at a segment until the test lets it go on, so that what happens in the middle of it can be seen.

use std::fs;
use std::path::{Path, PathBuf};

use walarchive_testkit::Builder;

use crate::site::Site;

/// Where recovery waits.
pub struct Hold {
    directory: PathBuf,
    reads_ahead: bool,
}

impl Hold {
    /// Let the server's recovery wait before each of these segments.
    #[must_use]
    pub fn at(site: &Site, server: &str, segments: &[&str]) -> Self {
        let directory = site.dir().join(format!("{server}_hold"));
        fs::create_dir(&directory).expect("created");
        for segment in segments {
            fs::write(directory.join(segment), "").expect("written");
        }
        // From PostgreSQL 15 on, recovery reads WAL some segments before it replays it, when they are as empty as a test's.
        Hold {
            directory,
            reads_ahead: site.pg().major() >= 15,
        }
    }

    /// This `restore_command`, with the wait before it. It ends with the server.
    #[must_use]
    pub fn with(&self, builder: Builder, command: &str) -> Builder {
        let file = self.directory.join("%f");
        let wait = format!(
            "read -r pid < postmaster.pid; while [ -e {} ]; do kill -0 $pid || exit 200; sleep 0.05; done; exec {command}",
            file.display()
        );
        let builder = builder.server_setting("restore_command", &wait);
        match self.reads_ahead {
            true => builder.server_setting("recovery_prefetch", "off"),
            false => builder,
        }
    }

    /// Recovery goes on at this segment.
    pub fn let_go(&self, segment: &str) {
        fs::remove_file(self.directory.join(segment)).expect("removed");
    }
}

/// `walarchive wal-fetch` for a site's repository.
#[must_use]
pub fn wal_fetch(site: &Site) -> String {
    let command = site.pg().program("walarchive");
    let program = Path::new(command.get_program()).display().to_string();
    let mut arguments = format!("--storage {}", site.url());
    for option in site.options().split(',').filter(|option| !option.is_empty()) {
        arguments.push_str(&format!(" --storage-option {option}"));
    }
    format!("{program} wal-fetch {arguments} %f \"%p\"")
}
