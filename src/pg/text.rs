//! Text between SQL and Rust. A database may have another encoding than UTF-8, so the server converts all text in both directions.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char};

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::UnboxDatum;
use pgrx::pgrx_sql_entity_graph::impl_sql_translatable;
use pgrx::{FromDatum, IntoDatum, direct_function_call, direct_function_call_as_datum, pg_sys};
use serde_json::Value;
use walarchive_core::printable;

use super::{Datum, Oid};

const UTF8: i32 = pg_sys::pg_enc::PG_UTF8 as i32;
const SQL_ASCII: i32 = pg_sys::pg_enc::PG_SQL_ASCII as i32;

/// A conversion makes at most four bytes of one (MAX_CONVERSION_GROWTH).
const GROWTH: usize = 4;

/// How many characters are converted at once to find those that cannot be converted.
const PIECE: usize = 1024;

/// SQL's `text`. On the way to SQL, control characters and characters that the database's encoding does not have are escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlText(pub String);

/// SQL's `jsonb`.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlJson(pub Value);

impl From<String> for SqlText {
    fn from(text: String) -> Self {
        SqlText(text)
    }
}

impl From<&str> for SqlText {
    fn from(text: &str) -> Self {
        SqlText(text.to_owned())
    }
}

/// The encoding of this process's database. Without one it is SQL_ASCII.
fn encoding() -> i32 {
    // SAFETY: reads a variable of the main thread.
    unsafe { pg_sys::GetDatabaseEncoding() }
}

/// Bytes of the database's encoding as UTF-8. An ERROR if they are not valid in that encoding.
fn from_server(bytes: &[u8]) -> String {
    let length = bytes.len() as i32;
    // SAFETY: the length is that of the bytes. The answer is the argument, or a C string of the current memory context.
    let converted = unsafe {
        let text = pg_sys::pg_server_to_any(bytes.as_ptr().cast(), length, UTF8);
        match std::ptr::eq(text.cast_const().cast(), bytes.as_ptr()) {
            true => Cow::Borrowed(bytes),
            false => Cow::Owned(CStr::from_ptr(text).to_bytes().to_vec()),
        }
    };
    // The server has validated it, except in a database whose encoding is UTF-8.
    String::from_utf8_lossy(&converted).into_owned()
}

/// UTF-8 as bytes of the database's encoding, which must have all of its characters: see [`shown`].
fn to_server(text: &str) -> Vec<u8> {
    let length = text.len() as i32;
    // SAFETY: as above.
    unsafe {
        let bytes = pg_sys::pg_any_to_server(text.as_ptr().cast(), length, UTF8);
        match std::ptr::eq(bytes.cast_const().cast(), text.as_ptr()) {
            true => text.as_bytes().to_vec(),
            false => CStr::from_ptr(bytes).to_bytes().to_vec(),
        }
    }
}

/// The text, with an escape for each character that the database's encoding does not have.
fn shown(text: &str) -> Cow<'_, str> {
    let encoding = encoding();
    if text.is_ascii() || encoding == UTF8 || encoding == SQL_ASCII {
        return Cow::Borrowed(text);
    }
    // SAFETY: looks into the catalog; a statement runs, so there is a transaction.
    let conversion = unsafe { pg_sys::FindDefaultConversionProc(UTF8, encoding) };
    let letters: Vec<char> = text.chars().collect();
    let mut shown = String::with_capacity(text.len());
    let mut rest = &letters[..];
    while !rest.is_empty() {
        let piece: String = rest[..rest.len().min(PIECE)].iter().collect();
        let good = match conversion {
            Oid::INVALID => piece.bytes().take_while(u8::is_ascii).count(),
            conversion => convertible(conversion, encoding, &piece),
        };
        let good = piece.get(..good).unwrap_or_default();
        shown.push_str(good);
        rest = &rest[good.chars().count()..];
        if good.len() < piece.len() {
            let bad = rest[0].to_string();
            shown.push_str(&printable::escape(&bad, |_| true));
            rest = &rest[1..];
        }
    }
    Cow::Owned(shown)
}

/// How many bytes of the text can be converted.
fn convertible(conversion: Oid, encoding: i32, text: &str) -> usize {
    let mut source = text.as_bytes().to_vec();
    let length = source.len();
    source.push(0);
    let mut target = vec![0u8; length * GROWTH + 1];
    // SAFETY: the buffers have these lengths, and with noError the function raises nothing about their contents.
    let converted = unsafe {
        pg_sys::pg_do_encoding_conversion_buf(
            conversion,
            UTF8,
            encoding,
            source.as_mut_ptr(),
            length as i32,
            target.as_mut_ptr(),
            target.len() as i32,
            true,
        )
    };
    usize::try_from(converted).unwrap_or(0).min(length)
}

/// A message for client and log, as bytes of the database's encoding. Characters that it does not have are escaped.
pub(super) fn message(text: &str) -> Vec<u8> {
    let text = printable::lines(text);
    let encoding = encoding();
    if text.is_ascii() || encoding == UTF8 || encoding == SQL_ASCII {
        return text.into_owned().into_bytes();
    }
    // SAFETY: reads a variable of the main thread. Conversions are looked up in the catalog.
    match unsafe { pg_sys::IsTransactionState() } {
        true => to_server(&shown(&text)),
        false => ascii(&text).into_bytes(),
    }
}

/// The same with characters that every encoding has. In UTF-8 and without an encoding the text stays as it is.
pub(super) fn ascii(text: &str) -> String {
    let text = printable::lines(text);
    let encoding = encoding();
    match encoding == UTF8 || encoding == SQL_ASCII {
        true => text.into_owned(),
        false => printable::escape(&text, |letter| !letter.is_ascii()).into_owned(),
    }
}

impl FromDatum for SqlText {
    unsafe fn from_polymorphic_datum(datum: Datum, is_null: bool, _type: Oid) -> Option<Self> {
        if is_null || datum.is_null() {
            return None;
        }
        // SAFETY: the datum is a text, and its bytes live as long as the detoasted value.
        unsafe {
            let text = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
            let bytes = std::slice::from_raw_parts(pgrx::vardata_any(text).cast(), pgrx::varsize_any_exhdr(text));
            Some(SqlText(from_server(bytes)))
        }
    }
}

impl IntoDatum for SqlText {
    fn into_datum(self) -> Option<Datum> {
        let bytes = to_server(&shown(&printable::line(&self.0)));
        // SAFETY: copies that many bytes into a new text.
        let text = unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast::<c_char>(), bytes.len() as i32) };
        Some(Datum::from(text))
    }

    fn type_oid() -> Oid {
        pg_sys::TEXTOID
    }
}

impl FromDatum for SqlJson {
    unsafe fn from_polymorphic_datum(datum: Datum, is_null: bool, _type: Oid) -> Option<Self> {
        if is_null || datum.is_null() {
            return None;
        }
        // SAFETY: the datum is a jsonb, for which this is the output function.
        let text = unsafe { direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(datum)]) }?;
        let json = from_server(text.to_bytes());
        // serde_json does not accept such depth or such large numbers. As a text nothing is lost.
        Some(SqlJson(serde_json::from_str(&json).unwrap_or(Value::String(json))))
    }
}

impl IntoDatum for SqlJson {
    fn into_datum(self) -> Option<Datum> {
        let json = CString::new(to_server(&storable(self.0).to_string())).ok()?;
        // SAFETY: a C string with a JSON value that the input function accepts: `storable` has made it so.
        unsafe { direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(Datum::from(json.as_ptr()))]) }
    }

    fn type_oid() -> Oid {
        pg_sys::JSONBOID
    }
}

/// A value that `jsonb` can hold in this database: without NUL and without characters that its encoding does not have.
fn storable(json: Value) -> Value {
    let text = |text: String| shown(&text.replace('\0', "\\u0000")).into_owned();
    match json {
        Value::String(string) => Value::String(text(string)),
        Value::Array(values) => values.into_iter().map(storable).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (text(name), storable(value)))
            .collect(),
        other => other,
    }
}

macro_rules! passes_as_datum {
    ($type:ty, $sql:literal) => {
        // SAFETY: by `from_datum`, which takes a datum of the SQL type below.
        unsafe impl<'fcx> ArgAbi<'fcx> for $type {
            unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
                // SAFETY: as the caller says.
                unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| panic!("an argument must not be null"))
            }
        }

        // SAFETY: the datum is the one that is returned.
        unsafe impl BoxRet for $type {
            unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
                match self.into_datum() {
                    // SAFETY: a datum of the SQL type below.
                    Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
                    None => fcinfo.return_null(),
                }
            }
        }

        // SAFETY: the SQL name is that of the type whose datum `into_datum` makes.
        impl_sql_translatable!($type, $sql);
    };
}

passes_as_datum!(SqlText, "TEXT");
passes_as_datum!(SqlJson, "jsonb");

// SAFETY: the value owns its text.
unsafe impl UnboxDatum for SqlText {
    type As<'src> = SqlText;

    unsafe fn unbox<'src>(datum: pgrx::datum::Datum<'src>) -> Self::As<'src>
    where
        Self: 'src,
    {
        // SAFETY: as the caller says: a text that is not null.
        unsafe { SqlText::from_datum(datum.sans_lifetime(), false) }.unwrap_or_else(|| SqlText(String::new()))
    }
}
