//! Writes an install script: a template, in which the declarations of the extension's library replace each line that begins
//! with `@`.
//!
//! The `.pgrxsc` section of the library holds the declarations; scripts/check-sql takes it out by objcopy. cargo-pgrx itself
//! takes longer to build than all of this project, and is needed for nothing else.
//!
//! - `@function NAME` is the definition of that function; `@function NAME TYPE` is one that returns rows of a type.
//! - `@type NAME FUNCTION` is a type whose columns are those of the function's rows.
//! - `@include FILE` is another template, beside this one; in `@include FILE without NAME…` these functions are not defined, as they
//!   exist already in what is upgraded.
//!
//! It is an error if a function of the library is in no template, if one is there twice, or if a function that returns rows of a
//! type has other columns than the type.
//!
//! Usage: `walarchive-sql SECTION_FILE TEMPLATE`

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use eyre::{Result, WrapErr, bail, ensure, eyre};
use pgrx_sql_entity_graph::metadata::{Returns, SqlArrayMapping, SqlMapping};
use pgrx_sql_entity_graph::section::decode_entities;
use pgrx_sql_entity_graph::{ExternArgs, PgExternEntity, PgExternReturnEntity, SqlGraphEntity, UsedTypeEntity};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [section, template] = args.as_slice() else {
        bail!("usage: walarchive-sql SECTION_FILE TEMPLATE");
    };
    let section = std::fs::read(section).wrap_err("could not read the section")?;
    let mut script = Script::default();
    for entity in decode_entities(&section).wrap_err("could not decode the section")? {
        match entity {
            SqlGraphEntity::Function(function) if function.to_sql_config.enabled => {
                script.functions.insert(function.name.to_owned(), function);
            }
            SqlGraphEntity::Function(_) | SqlGraphEntity::ExtensionRoot(_) => {}
            other => bail!("no template knows of such a declaration: {other:?}"),
        }
    }
    script.fill(Path::new(template), &[])?;
    let left: Vec<&String> = script
        .functions
        .keys()
        .filter(|name| !script.written.contains(*name))
        .collect();
    ensure!(left.is_empty(), "in no template: {left:?}");
    print!("{}", script.text);
    Ok(())
}

#[derive(Default)]
struct Script<'a> {
    functions: BTreeMap<String, PgExternEntity<'a>>,
    written: BTreeSet<String>,
    types: BTreeMap<String, Vec<String>>,
    text: String,
}

impl Script<'_> {
    fn fill(&mut self, template: &Path, without: &[&str]) -> Result<()> {
        let text = std::fs::read_to_string(template).wrap_err_with(|| format!("could not read {template:?}"))?;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let made = match words.as_slice() {
                ["@function", name, ..] if without.contains(name) => {
                    self.written.insert((*name).to_owned());
                    continue;
                }
                ["@function", name] => self.function(name, None)?,
                ["@function", name, row] => self.function(name, Some(row))?,
                ["@type", name, function] => self.row_type(name, function)?,
                ["@include", file, rest @ ..] => {
                    let without = match rest {
                        [] => &[],
                        ["without", names @ ..] => names,
                        _ => bail!("{template:?}: {line}"),
                    };
                    self.fill(&template.with_file_name(file), without)?;
                    continue;
                }
                _ if line.starts_with('@') => bail!("{template:?}: {line}"),
                _ => line.to_owned(),
            };
            self.text.push_str(&made);
            self.text.push('\n');
        }
        Ok(())
    }

    fn row_type(&mut self, name: &str, function: &str) -> Result<String> {
        let declared = self
            .functions
            .get(function)
            .ok_or_else(|| eyre!("there is no {function}"))?;
        let columns = columns(declared)?.ok_or_else(|| eyre!("{function} returns no rows"))?;
        let text = format!("CREATE TYPE @extschema@.{name} AS (\n{}\n);", list(&columns));
        self.types.insert(name.to_owned(), columns);
        Ok(text)
    }

    fn function(&mut self, name: &str, row: Option<&str>) -> Result<String> {
        let function = self.functions.get(name).ok_or_else(|| eyre!("there is no {name}"))?;
        ensure!(self.written.insert(name.to_owned()), "{name} is there twice");
        let mut arguments = Vec::new();
        for argument in &function.fn_args {
            let used = &argument.used_ty;
            let mapping = used.metadata.argument_sql.as_ref().map_err(|e| eyre!("{name}: {e}"))?;
            let variadic = if used.variadic { "VARIADIC " } else { "" };
            let default = used
                .default
                .map(|value| format!(" DEFAULT {value}"))
                .unwrap_or_default();
            arguments.push(format!(
                "{variadic}{} {}{default}",
                argument.pattern,
                sql_type(mapping)?
            ));
        }
        let returns = match (columns(function)?, row) {
            (Some(columns), None) => format!("TABLE (\n{}\n)", list(&columns)),
            (columns, Some(row)) => {
                let same = columns.is_some() && self.types.get(row) == columns.as_ref();
                ensure!(same, "the rows of {name} are not those of the type {row}");
                format!("SETOF @extschema@.{row}")
            }
            (None, None) => returned(function)?,
        };
        let arguments = match arguments.is_empty() {
            true => String::new(),
            false => format!("\n{}\n", list(&arguments)),
        };
        Ok(format!(
            "CREATE FUNCTION @extschema@.{name}({arguments}) RETURNS {returns}\nLANGUAGE c {}\nAS 'MODULE_PATHNAME', '{}_wrapper';",
            attributes(function)?,
            function.unaliased_name
        ))
    }
}

fn list(items: &[String]) -> String {
    format!("    {}", items.join(",\n    "))
}

/// The columns of a function's rows; none if it returns something else.
fn columns(function: &PgExternEntity) -> Result<Option<Vec<String>>> {
    let PgExternReturnEntity::Iterated { tys, .. } = &function.fn_return else {
        return Ok(None);
    };
    let column = |name: Option<&str>, ty: &UsedTypeEntity| {
        let name = name.ok_or_else(|| eyre!("{}: a column without a name", function.name))?;
        Ok(format!("{} {}", name.trim_matches('"'), one(function, ty)?))
    };
    let columns: Result<Vec<String>> = tys.iter().map(|item| column(item.name, &item.ty)).collect();
    columns.map(Some)
}

fn returned(function: &PgExternEntity) -> Result<String> {
    match &function.fn_return {
        PgExternReturnEntity::None => Ok("void".to_owned()),
        PgExternReturnEntity::Type { ty } => one(function, ty),
        PgExternReturnEntity::SetOf { ty, .. } => Ok(format!("SETOF {}", one(function, ty)?)),
        other => bail!("{}: no template knows of such a result: {other:?}", function.name),
    }
}

fn one(function: &PgExternEntity, ty: &UsedTypeEntity) -> Result<String> {
    match &ty.metadata.return_sql {
        Ok(Returns::One(mapping) | Returns::SetOf(mapping)) => sql_type(mapping),
        other => bail!("{}: not a plain type: {other:?}", function.name),
    }
}

/// The type as PostgreSQL's manual writes it.
fn sql_type(mapping: &SqlMapping) -> Result<String> {
    let spelled = match mapping {
        SqlMapping::As(sql) => sql.clone(),
        SqlMapping::Array(SqlArrayMapping::As(sql)) => format!("{sql}[]"),
        other => bail!("not a plain type: {other:?}"),
    };
    let (element, brackets) = match spelled.strip_suffix("[]") {
        Some(element) => (element, "[]"),
        None => (spelled.as_str(), ""),
    };
    let element = match element.to_lowercase().as_str() {
        "bool" => "boolean".to_owned(),
        "int" => "integer".to_owned(),
        "timestamp with time zone" => "timestamptz".to_owned(),
        other => other.to_owned(),
    };
    Ok(element + brackets)
}

/// As PostgreSQL spells them. If an argument cannot be NULL the server must not call the function with one.
fn attributes(function: &PgExternEntity) -> Result<String> {
    let mut words = Vec::new();
    for attribute in &function.extern_attrs {
        match attribute {
            ExternArgs::Name(_) => {}
            ExternArgs::Volatile
            | ExternArgs::Stable
            | ExternArgs::Immutable
            | ExternArgs::ParallelSafe
            | ExternArgs::ParallelRestricted
            | ExternArgs::ParallelUnsafe => words.push(attribute.to_string()),
            other => bail!("{}: no template knows of {other:?}", function.name),
        }
    }
    if function.fn_args.iter().any(|argument| !argument.used_ty.optional) {
        words.push("STRICT".to_owned());
    }
    Ok(words.join(" "))
}
