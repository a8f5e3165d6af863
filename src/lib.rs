//! walarchive
