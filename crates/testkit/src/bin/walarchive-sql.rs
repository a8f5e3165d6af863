//! Prints the SQL that the extension's library declares: what `cargo pgrx schema` would print, by the same generator.
//!
//! The `.pgrxsc` section of the library holds the declarations; scripts/check-sql takes it out by objcopy. cargo-pgrx itself
//! takes longer to build than all of this project, and is needed for nothing else.
//!
//! Usage: `walarchive-sql SECTION_FILE CONTROL_FILE LIBRARY_NAME`

use eyre::{Result, WrapErr, bail, eyre};
use pgrx_sql_entity_graph::section::decode_entities;
use pgrx_sql_entity_graph::{ControlFile, PgrxSql, SqlGraphEntity};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [section, control, library] = args.as_slice() else {
        bail!("usage: walarchive-sql SECTION_FILE CONTROL_FILE LIBRARY_NAME");
    };
    let section = std::fs::read(section).wrap_err("could not read the section")?;
    let control = ControlFile::from_path_with_cargo_version(control, env!("CARGO_PKG_VERSION"))
        .map_err(|e| eyre!("could not read the control file: {e}"))?;
    // With a module_pathname in the control file the library's name carries no version.
    let versioned = control.module_pathname.is_none();
    let mut entities = vec![SqlGraphEntity::ExtensionRoot(control)];
    entities.extend(decode_entities(&section).wrap_err("could not decode the section")?);
    let sql = PgrxSql::build(entities.into_iter(), library.clone(), versioned).wrap_err("could not build the SQL")?;
    print!("{}", sql.to_sql().wrap_err("could not write the SQL")?);
    Ok(())
}
