//! One tar: every member checked before it gets its name.

use std::cell::RefCell;
use std::io::Read;
use std::sync::atomic::Ordering;

use tar::EntryType;

use super::context::{Context, Step, Want};
use super::place::{Member, Placed};
use crate::data_dir::{PG_CONTROL, PG_VERSION, TABLESPACE_MAP};
use crate::encrypted::blame;
use crate::error::{Error, Result};
use crate::restore::directory::output::Output;
use crate::restore::directory::tree::Flush;
use crate::stored::member::MemberPath;
use crate::stored::members::{Stop, TRUNCATED, each_member};
use crate::stored::progress::Counted;
use crate::stored::tars::{Tar, TarKind};
use walarchive_storage::RangeReader;

/// Unpack a tar; blocks. `object` is its URL, for messages.
pub(crate) fn extract(context: &Context, step: &Step, tar: &Tar, object: &str, mut reader: RangeReader) -> Result<()> {
    let source = Counted::new(&mut reader, &context.progress).until(&context.cancel);
    let unpacker = Unpacker {
        context,
        step,
        tar,
        object,
        control: RefCell::new(None),
    };
    match unpacker.unpack(source) {
        Ok(()) => Ok(()),
        Err(Stop::Other(error)) => Err(error),
        Err(Stop::Read(error)) => Err(
            match blame(
                &mut reader,
                object,
                tar.format,
                format!("It cannot be unpacked: {error}."),
            ) {
                refused if refused.is_content() && context.cancel.is_cancelled() => Error::Cancelled,
                blamed => blamed,
            },
        ),
    }
}

struct Unpacker<'a> {
    context: &'a Context,
    step: &'a Step,
    tar: &'a Tar,
    object: &'a str,
    /// `pg_control` and its mode, until the tar is known to be whole: it makes the directory one that a server starts on.
    control: RefCell<Option<(Output, u32)>>,
}

impl Unpacker<'_> {
    fn unpack(&self, source: impl Read + Send) -> Result<(), Stop> {
        if !each_member(self.tar.format, source, |entry| self.member(entry))? {
            return Err(self.damaged(TRUNCATED).into());
        }
        match self.control.take() {
            Some((control, mode)) => Ok(control.keep(mode, Flush::Now)?),
            None => Ok(()),
        }
    }

    fn member(&self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), Stop> {
        let raw = entry.path_bytes().into_owned();
        let refused = |reason: &str| {
            let name = String::from_utf8_lossy(&raw).escape_debug().to_string();
            Stop::Other(self.damaged(format!("Its member \"{name}\" is refused: {reason}.")))
        };
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let path = MemberPath::parse(&raw).map_err(refused)?;
        if let Some(most) = self.step.exceeds(entry.size()) {
            let reason = format!(
                "With its member \"{path}\" the backup unpacks to more than {most} bytes, and its sentinel announces less"
            );
            return Err(self.damaged(format!("{reason}.")).into());
        }
        // A member that is neither a file nor a directory is left out anyway, under its own name.
        let is_special = matches!(
            kind,
            EntryType::Symlink | EntryType::Char | EntryType::Block | EntryType::Fifo
        );
        if !is_special && path.is_beside_tablespace(kind == EntryType::Directory) {
            tracing::warn!("\"{path}\" does not belong to a cluster, and was left out");
            return Ok(());
        }
        let mode = entry.header().mode()?;
        match kind {
            EntryType::Directory => self.directory(&path, mode),
            EntryType::Regular | EntryType::Continuous if raw.ends_with(b"/") => {
                Err(refused("a file has the name of a directory"))
            }
            EntryType::Regular | EntryType::Continuous => self.file(entry, &path, mode),
            EntryType::Symlink if path.content_is_left_out() => {
                tracing::warn!("\"{path}\" was a symbolic link; it is restored as an empty directory");
                self.directory(&path, 0o700)
            }
            EntryType::Symlink | EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.leave_out(entry, &path);
                Ok(())
            }
            // The content of a file is missing with it.
            EntryType::Link => Err(refused("it is a hard link")),
            _ => Err(refused("it is neither a file nor a directory")),
        }
    }

    /// WAL-G packs what somebody put into the data directory. It may lead to anywhere, so nothing of the kind is made, nor does
    /// it end the restore.
    fn leave_out(&self, entry: &tar::Entry<'_, impl Read>, path: &MemberPath) {
        if !self.context.leave_out(self.step, path, self.context.find(path)) {
            return;
        }
        let what = match entry.header().entry_type() {
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                format!(
                    "a symbolic link to \"{}\"",
                    String::from_utf8_lossy(&target).escape_debug()
                )
            }
            EntryType::Fifo => "a named pipe".to_owned(),
            _ => "a device".to_owned(),
        };
        tracing::warn!("\"{path}\" was {what}; it was left out");
    }

    /// Those of the newest backup come back, listed or not: they hold nothing.
    fn directory(&self, path: &MemberPath, mode: u32) -> Result<(), Stop> {
        let file = self.context.find(path).number();
        if !self.context.takes(&path.joined()) {
            self.context.done(file);
        } else if self.step.is_newest() || file.is_some_and(|file| self.step.level.taken.get(file).is_some()) {
            self.context.create_directory(path, mode)?;
            self.context.done(file);
        }
        Ok(())
    }

    fn file(&self, entry: &mut tar::Entry<'_, impl Read>, path: &MemberPath, mode: u32) -> Result<(), Stop> {
        let context = self.context;
        if self.step.is_newest() && path.is(PG_VERSION) {
            context.group.get_or_init(|| mode & 0o040 != 0);
        }
        let wrong = |reason: &str| Err(Stop::Other(self.damaged(format!("Its member \"{path}\" {reason}."))));
        let found = context.find(path);
        // The links to tablespaces were made already, to where they are now.
        if path.is_never_restored() || path.is(TABLESPACE_MAP) || !context.takes(&path.joined()) {
            context.done(found.number());
            return Ok(());
        }
        let is_control = path.is(PG_CONTROL);
        if is_control && self.tar.kind != TarKind::Control {
            return wrong("does not belong into this tar, because it must be restored last");
        }
        let is_increment = match context.want(self.step, path, found) {
            Want::Nothing => {
                tracing::trace!("\"{path}\" is not needed and was left out");
                return Ok(());
            }
            Want::Twice => return wrong("was restored already: it is in the backup twice"),
            Want::Full => false,
            Want::Increment => true,
        };
        let member = Member {
            context,
            path,
            found,
            mode,
            object: self.object,
        };
        match member.place(entry, is_increment)? {
            Placed::Whole(output) if is_control => *self.control.borrow_mut() = Some((output, mode)),
            Placed::Whole(output) => output.keep(mode, Flush::AtTheEnd)?,
            Placed::Done => {}
            // It does not count yet.
            Placed::InPart => return Ok(()),
        }
        context.done(found.number());
        context.progress.files_done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::damaged(self.object, reason)
    }
}
