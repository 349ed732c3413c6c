//! Files of the page, which are part of the program.
//!
//! Rule: they are the same until the program is another one: a browser asks whether it has the right one already.
//! Not here: the page itself (`page/`).

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
};

use crate::http::reply;

pub(super) struct PageFile {
    content_type: &'static str,
    text: &'static str,
    hash: u64,
}

pub(super) static INDEX: PageFile = PageFile::new("text/html; charset=utf-8", include_str!("page/index.html"));
pub(super) static STYLE: PageFile = PageFile::new("text/css; charset=utf-8", include_str!("page/page.css"));
pub(super) static SCRIPT: PageFile = PageFile::new("text/javascript; charset=utf-8", include_str!("page/page.js"));
pub(super) static ICON: PageFile = PageFile::new("image/svg+xml", include_str!("page/icon.svg"));

impl PageFile {
    const fn new(content_type: &'static str, text: &'static str) -> Self {
        Self { content_type, text, hash: fnv1a(text.as_bytes()) }
    }

    pub(super) fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let tag = format!("\"{:016x}\"", self.hash);
        let known = request.headers().get_all(header::IF_NONE_MATCH).filter_map(|tags| tags.to_str().ok());
        let is_known = known
            .flat_map(|tags| tags.split(','))
            .map(|known| known.trim())
            .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag);
        let status = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let mut builder = reply::builder(status);
        // Kept, and asked for each time: another version of the program has other files at the same paths.
        builder.insert_header((header::CACHE_CONTROL, "no-cache")).insert_header((header::ETAG, tag));
        if is_known { builder.finish() } else { builder.content_type(self.content_type).body(self.text) }
    }
}

/// FNV-1a: tells versions of a file apart. Nobody gains by a collision.
const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_its_reference() {
        // From the authors' test vectors.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
