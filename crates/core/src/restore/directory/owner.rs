//! To whom the restored files belong.

use std::str::FromStr;

use nix::unistd::{Gid, Group, Uid, User, geteuid};

use crate::error::{Error, Result};

/// A user and a group of this machine, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl FromStr for Owner {
    type Err = Error;

    /// `USER` or `USER:GROUP`, by name or number. Without a group it is the user's own.
    fn from_str(text: &str) -> Result<Self> {
        let unknown = |what: &str, name: &str| {
            Error::config(
                format!("there is no {what} \"{name}\" on this machine"),
                "Write USER or USER:GROUP; a number needs the group with it if no user has that number.",
            )
        };
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let number = user.parse::<u32>().ok();
        let found = match number {
            Some(uid) => User::from_uid(Uid::from_raw(uid)),
            None => User::from_name(user),
        };
        let found = found.map_err(|error| Error::io("look up a user in", "/etc/passwd", error.into()))?;
        let uid = number.or(found.as_ref().map(|user| user.uid.as_raw()));
        let uid = uid.ok_or_else(|| unknown("user", user))?;
        let gid = match group {
            None => found.map(|user| user.gid).ok_or_else(|| unknown("user", user))?,
            Some(group) => match group.parse() {
                Ok(number) => Gid::from_raw(number),
                Err(_) => {
                    Group::from_name(group)
                        .map_err(|error| Error::io("look up a group in", "/etc/group", error.into()))?
                        .ok_or_else(|| unknown("group", group))?
                        .gid
                }
            },
        };
        Ok(Owner { uid, gid: gid.as_raw() })
    }
}

/// Only root may give files away.
pub(crate) fn check(owner: Option<Owner>) -> Result<()> {
    match owner {
        Some(_) if !geteuid().is_root() => Err(Error::refused(
            "only root can give the restored files to another user",
            "Run this as the user who is to own them, without --owner.",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_name_or_number() {
        let parse = |text: &str| text.parse::<Owner>().map(|owner| (owner.uid, owner.gid));
        assert_eq!(parse("root").expect("known"), (0, 0));
        assert_eq!(parse("0").expect("known"), (0, 0));
        assert_eq!(parse("4123456:17").expect("numbers"), (4_123_456, 17));
        assert_eq!(parse("root:5").expect("known"), (0, 5));
        for text in [
            "",
            "nobody-has-this-name",
            "root:",
            "root:no-such-group",
            "4123456",
            "-1",
            ":",
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().contains("on this machine"), "{text}: {error}");
        }
    }
}
