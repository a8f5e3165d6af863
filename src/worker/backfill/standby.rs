//! A standby finds out which of its WAL is archived, and keeps the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use walarchive_core::Lsn;
use walarchive_core::archive::Archive;
use walarchive_core::archive::backfill::{self, Line};

use super::{Backfill, LIMIT, News};
use crate::bridge::Bridge;
use crate::guc;
use crate::pg::server;

impl Backfill {
    pub(super) fn on_standby(
        &mut self,
        bridge: &'static Bridge,
        archive: Arc<Archive>,
        news: Vec<News>,
        timeline: u32,
        position: Lsn,
    ) -> Duration {
        let interval = guc::lease_interval();
        if !guc::keep_unarchived() {
            self.stop();
            self.keep_nothing();
            return interval;
        }
        // Without a slot it is shown all the same what the archive lacks.
        let from = self.keep.begin(timeline, position).unwrap_or(Lsn(0));
        for news in news {
            match news {
                News::Kept(Ok((line, lsn, followed))) => {
                    self.looking = None;
                    self.followed = followed;
                    self.tell_trouble(None);
                    self.keep.advance(lsn);
                    // Before `from`, it was let go. The segment that is being written cannot be archived yet.
                    let (kept, present) = (line.segment(lsn.max(from)), line.segment(position));
                    match kept == present {
                        true => self.show_kept(None),
                        false => self.show_kept(Some((lsn.max(from), kept.to_string()))),
                    }
                }
                News::Kept(Err(error)) => {
                    self.looking = None;
                    self.tell_trouble(Some(&error));
                }
                News::Found(_) | News::Stored(..) => {}
            }
        }
        self.keep.limit(timeline, position);
        let now = Instant::now();
        if self.looking.is_none() && now >= self.due {
            self.due = now + interval;
            let (pg_wal, identity) = (self.pg_wal.clone(), server::identity());
            let followed = self.followed.clone();
            let work = async move {
                archive.permit().await?;
                archive.remember_repository().await?;
                let line = Line::read(&pg_wal, timeline, &identity)?;
                let (lsn, followed) = backfill::follow(archive.store(), &line, from, position, followed).await?;
                Ok((line, lsn, followed))
            };
            let sender = self.sender.clone();
            // This fails if the loop has ended.
            self.looking = Some(bridge.spawn(work, move |found| drop(sender.send(News::Kept(found)))));
        }
        // The limit is looked at more often than the archive. The end of a look wakes the uploader.
        match self.looking {
            Some(_) => LIMIT,
            None => self.due.saturating_duration_since(now).min(LIMIT),
        }
    }
}
