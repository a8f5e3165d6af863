//! Symbolic links in a repository that is a directory. Listings follow them, so that a folder may be on another file system;
//! deletion does not: what is behind one may be anything that the server's user may remove.

use super::plan::{Action, DeletionPlan, Kept, Object};
use crate::repository::layout;

/// Links that are named one by one.
const NAMED: usize = 20;

/// Take objects that are behind these links or have one in them out of the plan, and name the links. If a backup stays for
/// that, all WAL stays with it.
pub(super) fn leave(plan: &mut DeletionPlan, links: &[String]) {
    if links.is_empty() {
        return;
    }
    let mut spared = Vec::new();
    plan.actions.retain(|action| {
        let stays = is_concerned(action, links);
        if stays && let Object::Backup { name, .. } = &action.object {
            spared.push(name.clone());
        }
        !stays
    });
    if !spared.is_empty() {
        plan.actions
            .retain(|action| !matches!(action.object, Object::Wal(_) | Object::Tail(_)));
    }
    for name in spared {
        let note = format!("backup \"{name}\" contains a symbolic link, so it stays with all WAL");
        plan.notes.push(note);
        let why = "it contains a symbolic link".to_owned();
        plan.kept.push(Kept { name, why });
    }
    for link in links.iter().take(NAMED) {
        let note = format!("\"{link}\" is a symbolic link, so it stays with everything behind it");
        plan.notes.push(note);
    }
    if links.len() > NAMED {
        let more = match links.len() - NAMED {
            1 => "1 more symbolic link stays, too".to_owned(),
            more => format!("{more} more symbolic links stay, too"),
        };
        plan.notes.push(more);
    }
}

fn is_concerned(action: &Action, links: &[String]) -> bool {
    let folder = match &action.object {
        Object::Backup { name, .. } | Object::Leftover { name, .. } => Some(layout::backup_folder(name)),
        Object::Wal(_) | Object::Tail(_) | Object::Upload(_) | Object::Own(_) => None,
    };
    let key = action.key();
    links.iter().any(|link| {
        is_below(&key, link)
            || folder
                .as_ref()
                .is_some_and(|folder| is_below(folder, link) || is_below(link, folder))
    })
}

/// Is it the folder, or anything in it?
fn is_below(key: &str, folder: &str) -> bool {
    key.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
