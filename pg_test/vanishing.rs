//! A machine that vanishes at a random moment, in the middle of whatever it does, and what of it comes back from the store.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use walarchive_testkit::{Builder, Cluster, PATIENCE, Session, StopMode, TestDir, run};

use crate::archiving::switch_segments;
use crate::commits::Clients;
use crate::failover::wait_caught_up;
use crate::losses::Loss;
use crate::random::Random;
use crate::site::{Site, backup};

/// Of segments, in megabytes: what a moment fills, and PostgreSQL's own, which a round does not fill.
const SMALL: usize = 1;
const LARGE: usize = 16;

/// What a round without any event lasts at least: all of it is lost without the tail.
pub const LONG: Duration = Duration::from_millis(4500);

/// How commits get into the store.
pub struct Mode {
    /// For people.
    pub name: &'static str,
    /// Makes the store.
    pub site: fn() -> Site,
    /// Of the servers.
    pub settings: &'static [(&'static str, &'static str)],
    /// Whether commits wait for the store.
    pub is_synchronous: bool,
}

/// Clusters that are copied, since initdb takes longer than a round.
pub struct Templates(TestDir);

/// One machine's last seconds. The same seed does the same things, at the same moments as nearly as a busy system can.
pub struct Round<'a> {
    mode: &'a Mode,
    seed: u64,
    random: Random,
    clients: usize,
    event: Event,
}

/// What the machine is in the middle of.
#[derive(Debug, Clone, Copy)]
enum Event {
    Commits,
    /// Segments are switched and checkpoints made, one after the other.
    SwitchesAndCheckpoints,
    /// The server is stopped, as a crash does it or in order, and started.
    Restart,
    /// The primary is stopped, and its standby promoted.
    Switchover,
    /// The primary's machine vanishes, and its standby is promoted.
    Failover,
}

/// Five of them and two numbers of clients: ten seeds in a row have all.
const EVENTS: [Event; 5] = [
    Event::Commits,
    Event::SwitchesAndCheckpoints,
    Event::Restart,
    Event::Switchover,
    Event::Failover,
];

/// How many clients there may be.
pub const CLIENTS: [usize; 2] = [1, 16];

impl Templates {
    /// With segments of all sizes.
    #[track_caller]
    pub fn make() -> Templates {
        let dir = TestDir::new();
        for size in [SMALL, LARGE] {
            let builder = Cluster::builder(&dir, &size.to_string());
            drop(builder.initdb_arg(&format!("--wal-segsize={size}")).create());
        }
        Templates(dir)
    }

    /// A copy in a site's directory.
    #[track_caller]
    fn copy(&self, size: usize, site: &Site) -> PathBuf {
        let to = site.dir().join("primary");
        let mut copy = Command::new("cp");
        run(copy.arg("-a").arg(self.0.join(size.to_string())).arg(&to)).expect_success();
        to
    }
}

impl<'a> Round<'a> {
    /// The round of a seed.
    pub fn new(mode: &'a Mode, seed: u64) -> Round<'a> {
        let number = seed as usize;
        Round {
            mode,
            seed,
            random: Random::new(seed),
            clients: CLIENTS[number % CLIENTS.len()],
            event: EVENTS[number / CLIENTS.len() % EVENTS.len()],
        }
    }

    /// Runs it: the machine is gone then, and what the store has is restored and compared.
    #[track_caller]
    pub fn run(mut self, templates: &Templates) -> Loss {
        let site = (self.mode.site)();
        let size = match self.event {
            Event::Commits => LARGE,
            _ => [SMALL, LARGE][self.random.below(2)],
        };
        let datadir = templates.copy(size, &site);
        let primary = Arc::new(self.builder(&site, "primary").attach(&datadir));
        primary.psql("CREATE EXTENSION walarchive");
        Clients::prepare(&primary);
        backup(&primary, "");
        let mut clients = Clients::start(site.dir(), &primary, self.clients);
        let mut servers = vec![Arc::clone(&primary)];
        servers.extend(self.live(&site, &primary, &mut clients));
        let end = self.vanish(&site, &servers, &clients);
        let commits = clients.end();
        let loss = Loss::find(self.seed, self.clients, &commits, &restore(&site, self.event), end);
        eprintln!(
            "{}, seed {}: {} clients, {:?}, segments of {size} MB, {} of {} commits lost, {:.3} s",
            self.mode.name,
            self.seed,
            self.clients,
            self.event,
            loss.lost,
            loss.acknowledged,
            loss.time.as_secs_f64()
        );
        loss
    }

    fn builder(&self, site: &Site, name: &str) -> Builder {
        let with = |builder: Builder, (name, value): &(&str, &str)| builder.setting(name, value);
        self.mode.settings.iter().fold(site.builder(name), with)
    }

    /// The last seconds. Returns the standby, if there is one.
    #[track_caller]
    fn live(&mut self, site: &Site, primary: &Arc<Cluster>, clients: &mut Clients) -> Option<Arc<Cluster>> {
        match self.event {
            Event::Commits => {
                let least = LONG.as_millis() as usize;
                self.random.pause(least..least + 1500);
            }
            Event::SwitchesAndCheckpoints => {
                let (session, random) = (Session::begin_quietly(primary), self.random.clone());
                std::thread::spawn(move || bustle(session, random));
                self.random.pause(500..4000);
            }
            Event::Restart => self.restart(primary),
            Event::Switchover | Event::Failover => return Some(self.promote(site, primary, clients)),
        }
        None
    }

    #[track_caller]
    fn restart(&mut self, primary: &Cluster) {
        self.random.pause(200..2000);
        primary.begin_stop([StopMode::Immediate, StopMode::Fast][self.random.below(2)]);
        match self.random.below(4) {
            // The machine vanishes while the server stops,
            0 => self.random.pause(0..100),
            // while it starts,
            1 => {
                primary.wait_stopped(PATIENCE);
                primary.spawn_server();
                self.random.pause(0..400);
            }
            // or after that.
            _ => {
                primary.wait_stopped(PATIENCE);
                primary.start_again();
                self.random.pause(0..2000);
            }
        }
    }

    #[track_caller]
    fn promote(&mut self, site: &Site, primary: &Cluster, clients: &mut Clients) -> Arc<Cluster> {
        let standby = Arc::new(self.builder(site, "standby").standby_of(primary));
        self.random.pause(0..1500);
        // A switchover loses nothing. The standby may not have received all that a primary acknowledged which vanishes.
        let has_all = matches!(self.event, Event::Switchover);
        match has_all {
            true => primary.stop(StopMode::Fast),
            false => self.kill_primary(site, primary, &standby),
        }
        standby.psql("SELECT pg_promote(false)");
        if has_all {
            clients.go_to(&standby);
        } else {
            standby.wait_promoted(PATIENCE);
            clients.fail_over_to(&standby);
        }
        self.random.pause(0..3000);
        standby
    }

    /// With some segments that only the standby has, where nobody counts on them: the new timeline is worth nothing without these.
    #[track_caller]
    fn kill_primary(&self, site: &Site, primary: &Cluster, standby: &Cluster) {
        let Some(store) = site.server().filter(|_| self.mode.is_synchronous) else {
            return primary.vanish();
        };
        store.stop();
        switch_segments(primary, 3);
        wait_caught_up(standby, primary);
        primary.vanish();
        store.start_again();
    }

    /// The end of the machine, and in some rounds of the store's server a moment before. Returns from when on nothing can get
    /// into the store.
    #[track_caller]
    fn vanish(&mut self, site: &Site, servers: &[Arc<Cluster>], clients: &Clients) -> Duration {
        let store = site.server().filter(|_| self.random.below(3) == 0);
        let end = clients.elapsed();
        if let Some(store) = store {
            store.stop();
            self.random.pause(0..800);
        }
        servers.iter().for_each(|server| server.vanish());
        for server in servers {
            fs::remove_dir_all(server.datadir()).expect("could not remove the data directory");
        }
        if let Some(store) = store {
            store.start_again();
        }
        end
    }
}

/// Switches segments and makes checkpoints until the server is gone.
fn bustle(mut session: Session, mut random: Random) {
    const STATEMENTS: [&str; 2] = ["SELECT pg_switch_wal()", "CHECKPOINT; SELECT 1"];
    while session.try_ask(STATEMENTS[random.below(2)]).is_some() {
        random.pause(0..200);
    }
}

/// All that the store has.
#[track_caller]
fn restore(site: &Site, event: Event) -> Cluster {
    // The machine may have vanished before what only it had of the old timeline was archived. The new timeline is there then, and
    // recovery does not end before it unless it is told to. What is missing counts as lost all the same.
    let args: &[&str] = match event {
        Event::Failover => &["--allow-gap"],
        _ => &[],
    };
    let (target, output) = site.backup_fetch("restored", "LATEST", args);
    output.expect_success();
    let builder = site.restored("restored").setting("synchronous_standby_names", "");
    let restored = builder.attach(&target);
    restored.wait_promoted(PATIENCE);
    restored
}
