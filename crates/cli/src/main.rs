//! walarchive
fn main() {}
