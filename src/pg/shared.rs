//! Places in shared memory, each behind its lock.

/// Defines statics that live in shared memory, under names that are this library's alone.
macro_rules! in_shared_memory {
    ($($place:ident: $content:ty = $name:literal;)*) => {
        $(
            // SAFETY: no other place has the name, here or in another library.
            pub static $place: pgrx::lwlock::PgLwLock<$content> = unsafe { pgrx::lwlock::PgLwLock::new($name) };
        )*
    };
}

pub(crate) use in_shared_memory;
