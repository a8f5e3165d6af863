//! A backend's refusal to remove something that is behind a symbolic link.

/// The key of the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is a symbolic link")]
pub(super) struct BehindLink(pub String);

impl BehindLink {
    /// The link behind an error of object_store, if it is about one.
    pub(super) fn behind(error: &object_store::Error) -> Option<&BehindLink> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(link) = error.downcast_ref() {
                return Some(link);
            }
            next = error.source();
        }
        None
    }
}
