//! Pages of listings, looked at before object_store reads them. It takes anything for a page, an error as well, and fails at
//! the first name that it has no key for.

use std::borrow::Cow;

use object_store::path::Path;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use url::form_urlencoded;

use crate::odd::escaped;

/// Bytes with which a text may begin, as Azure's do. quick-xml does not count them.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The elements that hold one entry of a page, in the words of S3 (and GCS) and of Azure, and that of its name.
const ENTRIES: [&[u8]; 4] = [b"Contents", b"Blob", b"CommonPrefixes", b"BlobPrefix"];
const NAMES: [&[u8]; 3] = [b"Key", b"Name", b"Prefix"];
/// The names of a page's element, and of the marker of the next one.
const PAGES: [&[u8]; 2] = [b"ListBucketResult", b"EnumerationResults"];
const NEXT: [&[u8]; 2] = [b"NextContinuationToken", b"NextMarker"];

/// Deeper than any page.
const DEPTH: usize = 16;
/// How much a message shows of an answer that is no page, in bytes.
const SHOWN: usize = 300;

#[derive(Debug, thiserror::Error)]
pub(super) enum NoPage {
    #[error("the answer is empty, and no list of objects")]
    Empty,
    #[error("the answer is not a list of objects: {0}")]
    Other(String),
    #[error("the answer does not say what was deleted: {0}")]
    NotDeleted(String),
    #[error("the list of objects leads to itself, and would never end")]
    Circle,
}

/// A page without the entries that have no key.
#[derive(Debug, Default)]
pub(super) struct Sifted {
    /// None if all may stay.
    pub(super) body: Option<Vec<u8>>,
    /// The names that were passed over, escaped.
    pub(super) odd: Vec<String>,
}

/// An element's name without its name space.
fn local(name: &[u8]) -> &[u8] {
    name.rsplit(|byte| *byte == b':').next().unwrap_or_default()
}

/// The name of the outermost element.
fn root(body: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::from_reader(body);
    loop {
        match reader.read_event() {
            Ok(Event::Start(tag) | Event::Empty(tag)) => return Some(local(tag.name().as_ref()).to_vec()),
            Ok(Event::Text(text)) if text.iter().any(|byte| !byte.is_ascii_whitespace() && byte.is_ascii()) => {
                return None;
            }
            Ok(Event::Eof) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// The code of an error that was sent as a success: the store had to answer before it knew.
pub(super) fn error_code(body: &[u8]) -> Option<String> {
    // Most answers are empty or something else.
    if root(body)? != b"Error" {
        return None;
    }
    let text = String::from_utf8_lossy(body);
    let code = text
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    Some(code.map_or_else(String::new, |(code, _)| code.trim().to_owned()))
}

/// The status that an error should have had.
pub(super) fn status_of(code: &str) -> u16 {
    match code {
        "InternalError" | "InternalServerError" => 500,
        "SlowDown" | "ServiceUnavailable" | "ServerBusy" | "OperationTimedOut" | "Busy" => 503,
        "RequestTimeout" => 408,
        "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "RequestTimeTooSkewed"
        | "AuthenticationFailed" => 403,
        code if code.starts_with("NoSuch") || code.ends_with("NotFound") => 404,
        "PreconditionFailed" => 412,
        "NotImplemented" => 501,
        _ => 400,
    }
}

/// As much of an answer as a message shows.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// object_store takes anything for the answer that all objects are deleted.
pub(super) fn check_deleted(body: &[u8]) -> Result<(), NoPage> {
    match root(body) {
        Some(root) if root == b"DeleteResult" => Ok(()),
        _ => Err(NoPage::NotDeleted(shown(body))),
    }
}

/// The meaning of a name.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    /// A key, or the folder of one.
    Key,
    /// An object that stands for a folder, as browsers of stores make them: nothing is in it.
    Folder,
    Odd(String),
}

fn judge(raw: &[u8], is_folder: bool, encoded: bool) -> Name {
    let shown = |text: &str| Name::Odd(escaped(text.as_bytes()));
    let Ok(text) = std::str::from_utf8(raw) else {
        return Name::Odd(escaped(raw));
    };
    let Ok(name) = quick_xml::escape::unescape(text) else {
        return shown(text);
    };
    // Azure's way with characters that XML cannot hold.
    if encoded {
        return shown(&percent_encoding::percent_decode_str(&name).decode_utf8_lossy());
    }
    let is_key = |key: &str| !key.is_empty() && Path::parse(key).is_ok_and(|path| path.as_ref() == key);
    match name.strip_suffix('/') {
        _ if is_key(&name) => Name::Key,
        Some(folder) if is_key(folder) && is_folder => Name::Key,
        Some(folder) if is_key(folder) => Name::Folder,
        _ => shown(&name),
    }
}

/// An entry that is being read.
struct Entry {
    starts: usize,
    depth: usize,
    is_folder: bool,
    name: Option<Name>,
}

/// A name or a marker that is being read.
struct Value {
    starts: usize,
    encoded: bool,
}

/// Look at a page, which was asked for with this query.
pub(super) fn sift(body: &[u8], query: &str) -> Result<Sifted, NoPage> {
    let other = || NoPage::Other(shown(body));
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(NoPage::Empty);
    }
    if !root(body).is_some_and(|root| PAGES.contains(&root.as_slice())) {
        return Err(other());
    }
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let mut reader = Reader::from_reader(body);
    let mut sieve = Sieve::new(body, query);
    let mut closed = false;
    loop {
        let before = position(&reader);
        match reader.read_event().map_err(|_| other())? {
            Event::Start(tag) => {
                sieve.start(&tag, before, position(&reader));
                if sieve.depth > DEPTH {
                    return Err(other());
                }
            }
            Event::End(tag) => {
                sieve.end(local(tag.name().as_ref()), before, position(&reader))?;
                closed |= sieve.depth == 0;
            }
            Event::Empty(tag) if sieve.depth == 0 => closed |= PAGES.contains(&local(tag.name().as_ref())),
            Event::Eof if closed => return Ok(sieve.finish()),
            // A page that breaks off is not the whole of it.
            Event::Eof => return Err(other()),
            _ => {}
        }
    }
}

/// Goes through a page, and leaves out entries that have no key.
struct Sieve<'a> {
    body: &'a [u8],
    query: &'a str,
    depth: usize,
    entry: Option<Entry>,
    value: Option<Value>,
    /// The part of the body that stays so far, and the place up to which that was copied or left out.
    kept: Vec<u8>,
    copied: usize,
    has_gaps: bool,
    odd: Vec<String>,
}

impl<'a> Sieve<'a> {
    fn new(body: &'a [u8], query: &'a str) -> Self {
        Sieve {
            body,
            query,
            depth: 0,
            entry: None,
            value: None,
            kept: Vec::new(),
            copied: 0,
            has_gaps: false,
            odd: Vec::new(),
        }
    }

    /// An element begins here, and its content there.
    fn start(&mut self, tag: &BytesStart<'_>, here: usize, content: usize) {
        self.depth += 1;
        let name = tag.name();
        let name = local(name.as_ref());
        let value = |encoded| Value {
            starts: content,
            encoded,
        };
        match &self.entry {
            None if ENTRIES.contains(&name) => {
                self.entry = Some(Entry {
                    starts: here,
                    depth: self.depth,
                    is_folder: name.ends_with(b"Prefixes") || name.ends_with(b"Prefix"),
                    name: None,
                });
            }
            None if NEXT.contains(&name) => self.value = Some(value(false)),
            Some(entry) if self.depth == entry.depth + 1 && NAMES.contains(&name) => {
                let attribute = tag.try_get_attribute("Encoded").ok().flatten();
                let encoded = attribute.is_some_and(|attribute| attribute.value.as_ref() == b"true");
                self.value = Some(value(encoded));
            }
            _ => {}
        }
    }

    /// An element's content ends here, and the element there.
    fn end(&mut self, name: &[u8], here: usize, there: usize) -> Result<(), NoPage> {
        if let Some(value) = self.value.take() {
            let raw = &self.body[value.starts..here];
            match &mut self.entry {
                Some(entry) => entry.name = Some(judge(raw, entry.is_folder, value.encoded)),
                None if NEXT.contains(&name) && leads_back(raw, self.query) => return Err(NoPage::Circle),
                None => {}
            }
        }
        let depth = self.depth;
        if let Some(ended) = self.entry.take_if(|entry| entry.depth == depth) {
            match ended.name.unwrap_or_else(|| Name::Odd(String::new())) {
                Name::Key => {}
                Name::Folder => self.leave_out(ended.starts, there),
                Name::Odd(name) => {
                    self.leave_out(ended.starts, there);
                    self.odd.push(name);
                }
            }
        }
        self.depth = depth.saturating_sub(1);
        Ok(())
    }

    fn leave_out(&mut self, from: usize, to: usize) {
        self.kept.extend_from_slice(&self.body[self.copied..from]);
        self.copied = to;
        self.has_gaps = true;
    }

    fn finish(mut self) -> Sifted {
        if self.has_gaps {
            self.kept.extend_from_slice(&self.body[self.copied..]);
        }
        Sifted {
            body: self.has_gaps.then_some(self.kept),
            odd: self.odd,
        }
    }
}

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

/// Is this the marker of the page that was asked for? The next page would be the same.
fn leads_back(raw: &[u8], query: &str) -> bool {
    let Ok(text) = std::str::from_utf8(raw) else {
        return false;
    };
    let Ok(next) = quick_xml::escape::unescape(text) else {
        return false;
    };
    let asked = |key: &str| key == "continuation-token" || key == "marker";
    let same = |(key, value): (Cow<str>, Cow<str>)| asked(&key) && value == next;
    !next.is_empty() && form_urlencoded::parse(query.as_bytes()).any(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(keys: &[&str]) -> String {
        let entries: String = keys
            .iter()
            .map(|key| format!("<Contents><Owner><ID>Key</ID></Owner><Key>{key}</Key><Size>1</Size></Contents>\n"))
            .collect();
        format!(
            "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"u\"><Name>b</Name><Prefix>p//</Prefix>{entries}\
             <CommonPrefixes><Prefix>p/a/</Prefix></CommonPrefixes><CommonPrefixes><Prefix>p//</Prefix></CommonPrefixes>\
             <NextContinuationToken>1+2=</NextContinuationToken></ListBucketResult>"
        )
    }

    #[test]
    fn names_without_a_key_are_passed_over() {
        let page = s3(&[
            "p/a",
            "p//x",
            "p/b&amp;c",
            "p/./x",
            "p/../x",
            "p/f/",
            "p/a&#9;b",
            "p/a\tb",
            "",
            "p/%41",
            "/p/x",
        ]);
        let sifted = sift(page.as_bytes(), "list-type=2").expect("a page");
        assert_eq!(
            sifted.odd,
            ["p//x", "p/./x", "p/../x", "p/a\\tb", "p/a\\tb", "", "/p/x", "p//"]
        );
        let body = String::from_utf8(sifted.body.expect("changed")).expect("text");
        for stays in [
            "p/a<",
            "p/b&amp;c",
            "p/%41",
            "p/a/",
            "<Prefix>p//</Prefix><Contents>",
            "1+2=",
        ] {
            assert!(body.contains(stays), "{stays}: {body}");
        }
        for goes in [
            "p//x",
            "./x",
            "p/f/",
            "&#9;",
            "<Key></Key>",
            "<CommonPrefixes><Prefix>p//",
        ] {
            assert!(!body.contains(goes), "{goes}: {body}");
        }
        assert!(sift(body.as_bytes(), "").expect("a page").body.is_none(), "{body}");
    }

    #[test]
    fn bytes_that_are_no_text_are_passed_over() {
        let mut page = s3(&["p/a", "p/MARK"]).into_bytes();
        let at = page.windows(4).position(|bytes| bytes == b"MARK").expect("there");
        page[at] = 0xff;
        let sifted = sift(&page, "").expect("a page");
        assert_eq!(sifted.odd[0], "p/\\xffARK");
        assert!(std::str::from_utf8(&sifted.body.expect("changed")).is_ok());
    }

    #[test]
    fn azures_pages_too() {
        let page = "\u{feff}<?xml version=\"1.0\"?><EnumerationResults><Blobs><Blob><Name>p/a</Name><Properties><Name>//\
                    </Name></Properties></Blob><Blob><Name Encoded=\"true\">p/a%01b</Name></Blob><BlobPrefix><Name>p/c/</Name>\
                    </BlobPrefix><BlobPrefix><Name>p//</Name></BlobPrefix></Blobs><NextMarker>m</NextMarker>\
                    </EnumerationResults>";
        let sifted = sift(page.as_bytes(), "marker=n").expect("a page");
        assert_eq!(sifted.odd, ["p/a\\u{1}b", "p//"]);
        assert!(matches!(
            sift(page.as_bytes(), "comp=list&marker=m"),
            Err(NoPage::Circle)
        ));
        let whole = sift(
            b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>",
            "marker=",
        )
        .expect("a page");
        assert!(whole.body.is_none() && whole.odd.is_empty());
        assert!(sift(b"<ListBucketResult/>", "").expect("a page").body.is_none());
    }

    #[test]
    fn what_is_no_page_is_not_an_empty_one() {
        for text in [
            "<Error><Code>AccessDenied</Code></Error>",
            "<html>hi</html>",
            "{}",
            "welcome",
            "<ListBucketResult>",
        ] {
            let error = sift(text.as_bytes(), "").expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(matches!(sift(b" \n", ""), Err(NoPage::Empty)));
        let cut = s3(&["p/a"]);
        assert!(sift(&cut.as_bytes()[..cut.len() - 30], "").is_err());
        assert!(matches!(
            sift(s3(&[]).as_bytes(), "continuation-token=1%2B2%3D"),
            Err(NoPage::Circle)
        ));
    }

    #[test]
    fn errors_have_the_status_that_they_should_have_had() {
        let error = b"<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code></Error>";
        assert_eq!(status_of(&error_code(error).expect("an error")), 503);
        for (code, status) in [
            ("AccessDenied", 403),
            ("NoSuchBucket", 404),
            ("InternalError", 500),
            ("Odd", 400),
        ] {
            assert_eq!(status_of(code), status);
        }
        assert_eq!(error_code(b"<ErrorResult/>"), None);
        assert_eq!(error_code(b""), None);
        check_deleted(b"<?xml version=\"1.0\"?><DeleteResult xmlns=\"u\"/>").expect("an answer");
        for text in ["<html></html>", "", "{}", "<DeleteResul/>"] {
            check_deleted(text.as_bytes()).expect_err(text);
        }
        assert_eq!(
            error_code(b"<DeleteResult><Error><Code>x</Code></Error></DeleteResult>"),
            None
        );
    }
}
