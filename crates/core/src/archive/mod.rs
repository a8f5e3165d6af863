//! Archive one WAL file; fetch one.
